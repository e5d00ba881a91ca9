# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each host's files and certificate, and what two hosts accept of each other."""

from __future__ import annotations

import http
from collections.abc import Iterator
from typing import Any

import pytest
import testinfra
from lab_hosts import ADDRESSES, CA, HOST_CERTIFICATE, ask, hosts, name_of, wait_for

testinfra_hosts = hosts("gateway-1", "inference-1")

TLS = "/etc/deepseek/tls"
PORT = 4433
SERVER = (
    f"openssl s_server -www -cert {TLS}/host.pem -key {TLS}/host.key -cert_chain {TLS}/issuing.pem"
    f" -CAfile {CA} -Verify 2 -verify_return_error"
)


@pytest.fixture(scope="module")
def server(host: Any) -> Iterator[str]:
    """Address of a server on the other host, which wants a client's certificate."""
    (name,) = {"gateway-1", "inference-1"} - {name_of(host)}
    (other,) = map(testinfra.get_host, hosts(name))
    address = ADDRESSES[name]["inference"]
    other.check_output(f"systemd-run --unit=test-server {SERVER} -accept {address}:{PORT}")
    wait_for(lambda: other.socket(f"tcp://{address}:{PORT}").is_listening, bool)
    yield address
    other.check_output("systemctl stop test-server.service")


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        (f"{TLS}/host.key", 0o600),
        (f"{TLS}/host.pem", 0o644),
        (f"{TLS}/ca.pem", 0o644),
        (f"{TLS}/issuing.pem", 0o644),
        (f"{TLS}/crl.pem", 0o644),
        ("/etc/deepseek/release.pub", 0o644),
    ],
)
def test_files_are_roots(host: Any, path: str, mode: int) -> None:
    file = host.file(path)
    assert (file.user, file.mode) == ("root", mode)


def test_the_certificate_names_the_host_and_is_of_a_peer(host: Any) -> None:
    name = name_of(host)
    text = host.check_output(
        f"openssl x509 -in {TLS}/host.pem -noout -subject"
        " -ext subjectAltName,extendedKeyUsage,basicConstraints"
    )
    assert f"CN={name}" in text.replace("CN = ", "CN=")
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in text
    assert "CA:FALSE" in text
    for alternative in (f"DNS:{name}", *ADDRESSES[name].values()):
        assert alternative in text


def test_hosts_accept_each_other(host: Any, server: str) -> None:
    answer = ask(host, server, "/", port=PORT, certificate=HOST_CERTIFICATE)
    assert answer.status == http.HTTPStatus.OK


def test_a_client_without_a_certificate_is_refused(host: Any, server: str) -> None:
    assert ask(host, server, "/", port=PORT).status != http.HTTPStatus.OK


def test_a_client_that_does_not_know_the_ca_refuses(host: Any, server: str) -> None:
    refused = host.run(
        f"openssl s_client -connect {server}:{PORT} -cert {TLS}/host.pem -key {TLS}/host.key"
        " -no-CAfile -no-CApath -no-CAstore -verify_return_error -brief </dev/null"
    )
    assert refused.rc != 0
    assert "certificate verify failed" in refused.stderr
