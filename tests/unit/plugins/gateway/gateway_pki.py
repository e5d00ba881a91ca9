# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys and certificates of a gateway, of workers behind it, and of its clients."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make_pki(directory: Path, service: str) -> None:
    """A CA with its empty list, the gateway's certificate, and those of a worker and of clients."""
    now = datetime.datetime.now(datetime.timezone.utc)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])

    def certificate(
        name: str, key: ec.EllipticCurvePrivateKey, alternatives: list[x509.GeneralName]
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(
                issuer
                if key is authority
                else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            )
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(
                x509.BasicConstraints(ca=key is authority, path_length=None), critical=True
            )
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def private(key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    (directory / "ca.pem").write_bytes(certificate("", authority, []))
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(now - datetime.timedelta(hours=1))
    )
    signed = crl.next_update(now + datetime.timedelta(days=1)).sign(authority, hashes.SHA256())
    (directory / "crl.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    for file, name in (
        ("server", service),
        ("client", "gateway-1"),
        ("worker", "inference-1"),
        ("gateway-2", "gateway-2"),
        ("release", "release-1"),
        ("hostile", '"}\\\n\x7f\u00fc\u8a9e\U0001f600' + "'" * 50),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = [] if file == "hostile" else [x509.DNSName(name), address]
        (directory / f"{file}.pem").write_bytes(certificate(name, key, alternative) + private(key))
    # HAProxy looks for a key beside a certificate first.
    shutil.copy(directory / "client.pem", directory / "client.pem.key")
