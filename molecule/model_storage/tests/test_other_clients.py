# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client gets that is not listed: nothing, from any storage host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import PORT, SERVERS
from lab_hosts import CA, HOST_CERTIFICATE, Request, ask_all, hosts

testinfra_hosts = hosts("client-1")
pytestmark = pytest.mark.usefixtures("published")


def statuses(host: Any, certificate: tuple[str, str] | None) -> list[int]:
    """What each storage host answers."""
    requests = [
        Request(address, "/probe", port=PORT, certificate=certificate)
        for address in SERVERS.values()
    ]
    return [answer.status for answer in ask_all(host, requests)]


@pytest.fixture(scope="module")
def forged(host: Any) -> Iterator[tuple[str, str]]:
    """A certificate that no CA has signed, for a name that is listed."""
    certificate, key = "/root/forged.pem", "/root/forged.key"
    host.run_expect(
        [0],
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=storage-1"
        f" -keyout {key} -out {certificate}",
    )
    yield certificate, key
    host.run_expect([0], f"rm {certificate} {key}")


def test_a_certificate_of_the_ca_is_not_enough(host: Any) -> None:
    assert statuses(host, HOST_CERTIFICATE) == [403, 403, 403]


def test_without_a_certificate_nothing_is_served(host: Any) -> None:
    assert statuses(host, None) == [400, 400, 400]


def test_a_certificate_that_no_ca_has_signed_is_refused(host: Any, forged: tuple[str, str]) -> None:
    assert statuses(host, forged) == [400, 400, 400]


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_tls_1_2_is_refused(host: Any, server: str) -> None:
    done = host.run(f"openssl s_client -tls1_2 -connect {server}:{PORT} -CAfile {CA} </dev/null")
    assert done.rc != 0
    assert "alert protocol version" in done.stderr
