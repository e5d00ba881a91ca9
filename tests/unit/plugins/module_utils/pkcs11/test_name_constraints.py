# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a CA with name constraints may sign, as OpenSSL, Python, nginx and HAProxy judge it."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11 import (
    constraints as pkcs11_constraints,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.certificates import (
    certificate_pem,
    describe,
    signed_by,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.issuing import (
    Wanted,
    _builder,
    issue,
    recreate_reason,
    self_signed,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import Pkcs11Error
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.token_keys import hash_for

NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
PERMITTED = ("DNS:inference-1", "DNS:dc1.example.org", "IP:10.2.3.4/24", "IP:2001:db8:7::1/64")
WITHIN = ("DNS:inference-1", "DNS:a.dc1.example.org", "IP:10.2.3.99", "IP:2001:db8:7::9")
OUTSIDE = (
    "DNS:inference-2",
    "DNS:evildc1.example.org",
    "DNS:example.org",
    "DNS:www.bank.test",
    "IP:10.2.4.1",
    "IP:2001:db8:8::1",
    "IP:::ffff:10.2.3.4",
)


@dataclass
class Authority:
    key: Any
    certificate: x509.Certificate

    def leaked(self, wanted: Wanted, key: Any) -> x509.Certificate:
        """What a thief of the key signs, who asks nobody."""
        builder = _builder(
            wanted, self.certificate.subject, key.public_key(), self.key.public_key(), NOW
        )
        return builder.sign(self.key, hash_for(self.key))


@pytest.fixture(scope="module")
def root() -> Authority:
    key: Any = ec.generate_private_key(ec.SECP256R1())
    return Authority(key, self_signed(Wanted("root", (), "root", 100, 30), key, NOW))


@pytest.fixture(scope="module")
def issuing(root: Authority) -> Authority:
    key: Any = ec.generate_private_key(ec.SECP256R1())
    wanted = Wanted("CA", (), "ca", 50, 10, PERMITTED)
    certificate = issue(wanted, key.public_key(), root.certificate, root.key, NOW)
    return Authority(key, certificate)


def host(*names: str) -> Wanted:
    return Wanted("host", names, "peer", 5, 1)


@pytest.fixture
def stolen(tmp_path: Path, root: Authority, issuing: Authority) -> dict[str, Path]:
    """A chain with its key that is within, and one for each kind of name outside, as files."""
    (tmp_path / "root.pem").write_text(certificate_pem(root.certificate))
    (tmp_path / "ca.pem").write_text(certificate_pem(issuing.certificate))
    files = {}
    for name, names in {
        "within": WITHIN,
        "dns": OUTSIDE[3:4],
        "ip": ("DNS:inference-1", OUTSIDE[4]),
    }.items():
        key: Any = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        signed = issuing.leaked(host(*names), key)
        files[name] = tmp_path / f"{name}.pem"
        chain = certificate_pem(signed) + certificate_pem(issuing.certificate)
        files[name].write_text(chain + private.decode())
    return files


def test_our_verdict_on_a_name_is_that_of_openssl(
    tmp_path: Path, root: Authority, issuing: Authority
) -> None:
    (tmp_path / "root.pem").write_text(certificate_pem(root.certificate))
    (tmp_path / "ca.pem").write_text(certificate_pem(issuing.certificate))
    key: Any = ec.generate_private_key(ec.SECP256R1())
    for name in WITHIN + OUTSIDE:
        signed = issuing.leaked(host(name), key)
        (tmp_path / "host.pem").write_text(certificate_pem(signed))
        said = subprocess.run(
            ["openssl", "verify", "-CAfile", "root.pem", "-untrusted", "ca.pem", "host.pem"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (name, said.returncode == 0) == (name, name in WITHIN), said.stderr
        assert name in WITHIN or "permitted subtree violation" in said.stderr
        if name in WITHIN:
            issue(host(name), key.public_key(), issuing.certificate, issuing.key, NOW)
            continue
        with pytest.raises(Pkcs11Error, match="NAME_OUTSIDE") as refused:
            issue(host(name), key.public_key(), issuing.certificate, issuing.key, NOW)
        assert name in str(refused.value)


def test_the_extension_is_critical_and_normal(issuing: Authority, root: Authority) -> None:
    found = issuing.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert found.critical
    assert describe(issuing.certificate)["permitted"] == [
        "DNS:dc1.example.org",
        "DNS:inference-1",
        "IP:10.2.3.0/24",
        "IP:2001:db8:7::/64",
    ]
    assert describe(root.certificate)["permitted"] == []
    for wrong in ("DNS:", "IP:10.2.3.400/24", "URI:x", "inference-1"):
        with pytest.raises(Pkcs11Error, match="PERMITTED"):
            pkcs11_constraints.subtrees_of([wrong])
    with pytest.raises(Pkcs11Error, match="PERMITTED"):
        Wanted("host", (), "peer", 5, 1, PERMITTED)


def test_a_ca_is_signed_again_for_more_and_left_alone_for_less(
    root: Authority, issuing: Authority
) -> None:
    def reason(certificate: x509.Certificate, *permitted: str) -> str | None:
        wanted = Wanted("CA", (), "ca", 50, 10, permitted)
        key = issuing.key.public_key()
        return recreate_reason(certificate, wanted, key, root.certificate, NOW)

    assert reason(issuing.certificate, *PERMITTED) is None
    assert reason(issuing.certificate, *PERMITTED[:1], "IP:10.2.3.128/25") is None
    assert reason(issuing.certificate) is None
    more = reason(issuing.certificate, *PERMITTED, "DNS:inference-2", "IP:10.2.0.0/16")
    assert more == "its name constraints do not have DNS:inference-2, IP:10.2.0.0/16"
    # one from before is left until its key changes or it is renewed
    before = replace(Wanted("CA", (), "ca", 50, 10), permitted=())
    key = issuing.key.public_key()
    unbound = issue(before, key, root.certificate, root.key, NOW)
    assert reason(unbound, *PERMITTED) is None
    another = root.key.public_key()
    wanted = Wanted("CA", (), "ca", 50, 10, PERMITTED)
    assert recreate_reason(unbound, wanted, another, root.certificate, NOW)
    # it signs for the same key: what it has signed before stays good
    wider = Wanted("CA", (), "ca", 50, 10, (*PERMITTED, "DNS:inference-2"))
    again = issue(wider, key, root.certificate, root.key, NOW)
    signed = issuing.leaked(host("DNS:inference-1"), ec.generate_private_key(ec.SECP256R1()))
    assert signed_by(signed, again)


@given(
    st.lists(st.ip_addresses(v=4), min_size=1, max_size=4),
    st.lists(
        st.from_regex(r"[a-z]{1,3}(\.[a-z]{1,3}){0,2}", fullmatch=True), min_size=1, max_size=4
    ),
)
def test_what_was_asked_for_is_always_within(addresses: list[Any], domains: list[str]) -> None:
    asked = [f"IP:{address}/24" for address in addresses] + [f"DNS:{domain}" for domain in domains]
    subtrees = pkcs11_constraints.subtrees_of(asked)
    names = [f"IP:{address}" for address in addresses] + [f"DNS:a.{domain}" for domain in domains]
    assert subtrees.outside(names + subtrees.texts) == []
    assert pkcs11_constraints.subtrees_of(subtrees.texts).texts == subtrees.texts


def shakes_hands(server: Path, client: Path | None, authority: Path) -> bool:
    """Whether Python's TLS takes the server's certificate, and the client's where there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED if client else ssl.CERT_NONE
    asking = ssl.create_default_context(cafile=authority)
    asking.check_hostname = False
    if client:
        asking.load_cert_chain(client)
    one, other = socket.socketpair()
    good = []

    def serve() -> None:
        with contextlib.suppress(OSError), context.wrap_socket(one, server_side=True) as connection:
            connection.sendall(b"x")
            good.append(True)

    thread = threading.Thread(target=serve)
    thread.start()
    with contextlib.suppress(OSError), asking.wrap_socket(other) as connection:
        good.append(connection.recv(1) == b"x")
    other.close()
    thread.join()
    return good == [True, True]


def test_python_refuses_a_server_and_a_client_that_are_outside(
    stolen: dict[str, Path], tmp_path: Path
) -> None:
    authority = tmp_path / "root.pem"
    assert shakes_hands(stolen["within"], None, authority)
    assert shakes_hands(stolen["within"], stolen["within"], authority)
    for outside in ("dns", "ip"):
        assert not shakes_hands(stolen[outside], None, authority)
        assert not shakes_hands(stolen["within"], stolen[outside], authority)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


NGINX = """
daemon off; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root};
  uwsgi_temp_path {root}; scgi_temp_path {root};
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {root}/within.pem; ssl_certificate_key {root}/within.pem;
    ssl_client_certificate {root}/root.pem; ssl_verify_client on; ssl_verify_depth 3;
    return 200 good;
  }}
}}
"""
HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend f
    bind 127.0.0.1:{port} ssl crt {root}/within.pem ca-file {root}/root.pem verify required
    http-request return status 200 content-type text/plain string good
"""


def listens(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def serving(program: str, root: Path) -> Iterator[int]:
    path = shutil.which(program, path=os.environ["PATH"] + os.pathsep + "/usr/sbin")
    assert path, f"{program} is needed for this test: run tests/packages"
    port = free_port()
    text, command = {
        "nginx": (NGINX, [path, "-c", str(root / "config"), "-e", str(root / "error.log")]),
        "haproxy": (HAPROXY, [path, "-db", "-f", str(root / "config")]),
    }[program]
    (root / "config").write_text(text.format(root=root, port=port))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: listens(process, port))
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("program", ["nginx", "haproxy"])
def test_nginx_and_haproxy_refuse_a_client_that_is_outside(
    program: str, stolen: dict[str, Path], tmp_path: Path
) -> None:
    def asks(certificate: Path) -> str:
        done = subprocess.run(
            [
                *("curl", "--silent", "--cacert", str(tmp_path / "root.pem"), "--max-time", "20"),
                *("--resolve", f"inference-1:{port}:127.0.0.1", "--cert", str(certificate)),
                f"https://inference-1:{port}/",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    with serving(program, tmp_path) as port:
        assert asks(stolen["within"]) == "good"
        for outside in ("dns", "ip"):
            assert "good" not in asks(stolen[outside])
