# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Three hosts to pull from: real nginx on the loopback interface, real TLS."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from release_host import SMALL, Signer, signer, tree, write_checkpoint
from waiting import PATIENCE, until

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.release import Release
from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import (
    Run,
    run_command,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import (
    Credentials,
    Replica,
    Request,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.publish import publish
from ansible_collections.onprem.deepseek.plugins.module_utils.store.recipes import Plan
from ansible_collections.onprem.deepseek.plugins.module_utils.store.replica import ensure_replica
from ansible_collections.onprem.deepseek.plugins.module_utils.store.sources import (
    https_fetcher,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import (
    inspect_replica,
)

__all__ = ["signer"]


@dataclasses.dataclass
class Site:
    """Three sources, a place to pull to, and the means to break things."""

    root: Path
    signer: Signer
    release: Release
    ports: list[int]
    processes: dict[int, subprocess.Popen[bytes]]

    def source(self, number: int) -> Path:
        return self.root / f"source{number}"

    def request(self, **change: object) -> Request:
        urls = [f"https://127.0.0.1:{port}" for port in self.ports]
        request = Request(str(self.root / "here"), "tiny", "1.0.0", self.signer.pem, urls)
        return dataclasses.replace(request, **change)  # type: ignore[arg-type]

    def credentials(self, name: str = "host") -> Credentials:
        return Credentials(
            *(str(self.root / file) for file in ("ca.pem", f"{name}.pem", f"{name}.key"))
        )

    def pull(
        self,
        name: str = "host",
        check_mode: bool = False,
        run: Run = run_command,
        **change: object,
    ) -> Replica:
        request, credentials = self.request(**change), self.credentials(name)
        found = inspect_replica(request)
        fetch = https_fetcher(credentials, 2)
        return ensure_replica(request, fetch, run, credentials, found, check_mode)

    def weights(self, root: Path) -> Path:
        return root / "checkpoint" / "tiny" / self.release.checkpoint / "model.safetensors"

    def stop(self, number: int) -> None:
        process = self.processes.pop(number)
        process.terminate()
        process.wait(PATIENCE)


def ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        key_cert_sign=True,
        crl_sign=True,
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def issue(
    root: Path, name: str, ca: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, issuer_key = ca or (subject, key)
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if ca is None:  # Python 3.13 and later refuse a CA that does not say what its key is for
        builder = builder.add_extension(ca_usage(), critical=True)
    else:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = builder.add_extension(usage, critical=False).add_extension(names, critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    (root / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (root / f"{name}.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return subject, key


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


NGINX = """
daemon off;
worker_processes 1;
pid {root}/nginx{number}.pid;
error_log {root}/error{number}.log;
events {{ worker_connections 64; }}
http {{
  access_log {root}/access{number}.log;
  client_body_temp_path {root}/tmp{number};
  proxy_temp_path {root}/tmp{number};
  fastcgi_temp_path {root}/tmp{number};
  uwsgi_temp_path {root}/tmp{number};
  scgi_temp_path {root}/tmp{number};
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate {root}/host.pem;
    ssl_certificate_key {root}/host.key;
    ssl_client_certificate {root}/ca.pem;
    ssl_verify_client on;
    root {root}/source{number};
    location ~ ^/(releases|engine)/([^/]+/)?$ {{
      autoindex on;
      autoindex_format json;
    }}
  }}
}}
"""


def start_nginx(root: Path, number: int, port: int) -> subprocess.Popen[bytes]:
    config = root / f"nginx{number}.conf"
    config.write_text(
        "user root;\n" * (os.geteuid() == 0) + NGINX.format(root=root, number=number, port=port)
    )
    process = subprocess.Popen(["nginx", "-c", str(config), "-e", str(root / f"error{number}.log")])

    def listens() -> bool:
        assert process.poll() is None, (root / f"error{number}.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    until(listens)
    return process


@pytest.fixture
def site(
    tmp_path: Path, signer: Signer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """A site with a small checkpoint, or one of the size that the test asks for."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    for program in ("nginx", "aria2c"):
        assert shutil.which(program), (
            f"{program} is needed for these tests: install nginx-light and aria2"
        )
    checkpoint = write_checkpoint(tmp_path / "import", getattr(request, "param", SMALL))
    done = publish(
        Plan(str(tmp_path / "source0"), "tiny", "1.0.0", str(checkpoint), signer.pem),
        signer.tools(),
    )
    assert done.release is not None
    for number in (1, 2):
        shutil.copytree(tmp_path / "source0", tmp_path / f"source{number}")
    ca = issue(tmp_path, "ca", None)
    issue(tmp_path, "host", ca)
    issue(tmp_path, "stranger", None)
    ports = [free_port() for _number in range(3)]
    processes = {number: start_nginx(tmp_path, number, port) for number, port in enumerate(ports)}
    site = Site(tmp_path, signer, done.release, ports, processes)
    yield site
    for number in list(site.processes):
        site.stop(number)


def same(site: Site) -> bool:
    return tree(site.root / "here") == tree(site.root / "source0")
