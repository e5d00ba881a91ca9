# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates and requests as they are read: names, validity, signatures."""

from __future__ import annotations

import datetime
import ipaddress
from typing import Any

from . import constraints as pkcs11_constraints
from .cryptography_api import (
    InvalidSignature,
    NameOID,
    ec,
    hashes,
    padding,
    require_cryptography,
    serialization,
    x509,
)
from .objects import Pkcs11Error

# A certificate must be good at once on hosts whose clocks are a little behind.
NOT_BEFORE_SKEW = datetime.timedelta(hours=1)


def parse_names(names: list[str]) -> list[x509.GeneralName]:
    """Subject alternative names from `DNS:name` and `IP:address`."""
    require_cryptography()
    parsed: list[x509.GeneralName] = []
    for name in names:
        kind, _colon, value = name.partition(":")
        try:
            if kind == "DNS" and value:
                parsed.append(x509.DNSName(value))
                continue
            if kind == "IP":
                parsed.append(x509.IPAddress(ipaddress.ip_address(value)))
                continue
        except ValueError as error:
            raise Pkcs11Error(
                "NAME", f"subject alternative name {name!r} is wrong: {error}.", "correct it."
            ) from error
        raise Pkcs11Error(
            "NAME",
            f"subject alternative name {name!r} is neither DNS:... nor IP:....",
            "correct it.",
        )
    return parsed


def load_certificate(pem: str, origin: str) -> x509.Certificate:
    """The first certificate of a PEM text."""
    require_cryptography()
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise Pkcs11Error(
            "CERTIFICATE", f"{origin} holds no certificate: {error}.", "restore it or delete it."
        ) from error


def load_request(pem: str) -> x509.CertificateSigningRequest:
    """A certificate signing request whose sender has the private key."""
    require_cryptography()
    try:
        request = x509.load_pem_x509_csr(pem.encode())
    except ValueError as error:
        raise Pkcs11Error(
            "CSR", f"the signing request cannot be read: {error}.", "make a new one."
        ) from error
    if not request.is_signature_valid:
        raise Pkcs11Error(
            "CSR",
            "the signing request is not signed by the key in it.",
            "make a new one with the host's own key.",
        )
    return request


def certificate_pem(certificate: x509.Certificate) -> str:
    """The certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 fingerprint in lower-case hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def not_after(certificate: x509.Certificate) -> datetime.datetime:
    """End of validity with its time zone; cryptography before 42 knows only the naive form."""
    return aware(certificate, "not_valid_after")


def not_before(certificate: x509.Certificate) -> datetime.datetime:
    """Start of validity with its time zone."""
    return aware(certificate, "not_valid_before")


def aware(certificate: Any, name: str) -> datetime.datetime:
    if hasattr(certificate, name + "_utc"):
        value: datetime.datetime = getattr(certificate, name + "_utc")
        return value
    naive: datetime.datetime = getattr(certificate, name)
    return naive.replace(tzinfo=datetime.timezone.utc)


def certificate_names(certificate: x509.Certificate) -> list[str]:
    """Subject alternative names as `DNS:...` and `IP:...`, sorted."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return sorted(name_text(name) for name in extension.value)


def name_text(name: x509.GeneralName) -> str:
    if isinstance(name, x509.DNSName):
        return f"DNS:{name.value}"
    if isinstance(name, x509.IPAddress):
        return f"IP:{name.value}"
    return str(name)


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, empty without one."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key made this certificate's signature and the names fit."""
    if certificate.issuer != issuer.subject:
        return False
    return signature_valid(
        issuer.public_key(),
        certificate.signature,
        certificate.tbs_certificate_bytes,
        certificate.signature_hash_algorithm,
    )


def signature_valid(key: Any, signature: bytes, data: bytes, algorithm: Any = None) -> bool:
    """Whether the signature over data was made by the private half of key (SHA-256 if not told)."""
    digest = algorithm or hashes.SHA256()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(digest))
        else:
            key.verify(signature, data, padding.PKCS1v15(), digest)
    except InvalidSignature:
        return False
    return True


def check_clock(certificate: x509.Certificate, now: datetime.datetime) -> None:
    """Refuse a certificate that is not valid by the clock of this host."""
    name, here = common_name(certificate), f"this host's clock says {now.isoformat()}"
    if now < not_before(certificate):
        raise Pkcs11Error(
            "CLOCK",
            f"the certificate of {name!r} is valid from {not_before(certificate).isoformat()}, and {here}.",
            "set the clock of this host, or of the CA's host if that one is ahead.",
        )
    if now >= not_after(certificate):
        raise Pkcs11Error(
            "CERT_ENDED",
            f"the certificate of {name!r} ended {not_after(certificate).isoformat()}, and {here}.",
            "check the clock, then run role tls, which issues another.",
        )


def describe(certificate: x509.Certificate) -> dict[str, Any]:
    """What a person wants to know of a certificate."""
    constraints = pkcs11_constraints.constraints_of(certificate)
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "names": certificate_names(certificate),
        "permitted": constraints.texts if constraints else [],
        "serial": f"{certificate.serial_number:x}",
        "not_before": not_before(certificate).isoformat(),
        "not_after": not_after(certificate).isoformat(),
        "fingerprint": fingerprint(certificate),
    }
