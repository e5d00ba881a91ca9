# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificate revocation lists: read, judged, and signed by a key in a token."""

from __future__ import annotations

import datetime

from .certificates import NOT_BEFORE_SKEW, aware, signature_valid
from .cryptography_api import require_cryptography, serialization, x509
from .objects import Pkcs11Error
from .token_keys import TokenKey, hash_for, same_key


def crl_pem(crl: x509.CertificateRevocationList) -> str:
    """The revocation list in PEM."""
    return crl.public_bytes(serialization.Encoding.PEM).decode()


def load_revocations(pem: str, origin: str) -> x509.CertificateRevocationList:
    """The first certificate revocation list of a PEM text."""
    require_cryptography()
    try:
        return x509.load_pem_x509_crl(pem.encode())
    except ValueError as error:
        raise Pkcs11Error(
            "CRL", f"{origin} holds no revocation list: {error}.", "restore it or delete it."
        ) from error


def revoked_serials(crl: x509.CertificateRevocationList) -> dict[int, datetime.datetime]:
    """Serial number of each revoked certificate, and when it was revoked."""
    return {entry.serial_number: aware(entry, "revocation_date") for entry in crl}


def next_update(crl: x509.CertificateRevocationList) -> datetime.datetime:
    """When the list ends; without an end it is as good as ended."""
    name = "next_update_utc" if hasattr(crl, "next_update_utc") else "next_update"
    if getattr(crl, name) is None:
        return datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)
    return aware(crl, "next_update")


def crl_number(crl: x509.CertificateRevocationList) -> int:
    """Number of the list, 0 without one (RFC 5280, section 5.2.3: it only grows)."""
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def crl_reason(
    current: x509.CertificateRevocationList | None,
    wanted: set[int],
    issuer: x509.Certificate,
    renew_before: datetime.timedelta,
    now: datetime.datetime,
) -> str | None:
    """Why another revocation list is needed, or None."""
    if current is None:
        return "there is no revocation list yet"
    if current.issuer != issuer.subject or not signature_valid(
        issuer.public_key(),
        current.signature,
        current.tbs_certlist_bytes,
        current.signature_hash_algorithm,
    ):
        return "it was not signed by the present CA"
    missing = sorted(wanted - revoked_serials(current).keys())
    if missing:
        return f"it does not revoke {', '.join(f'{serial:x}' for serial in missing)}"
    if next_update(current) - now <= renew_before:
        return f"it ends {next_update(current).isoformat()}"
    return None


def revocation_list(
    revoked: dict[int, datetime.datetime],
    number: int,
    validity: datetime.timedelta,
    issuer: x509.Certificate,
    signer: TokenKey,
    now: datetime.datetime,
) -> x509.CertificateRevocationList:
    """A revocation list signed in the token (RFC 5280, section 5)."""
    if not same_key(issuer.public_key(), signer.public_key()):
        raise Pkcs11Error(
            "CA_MISMATCH",
            f"the CA certificate {issuer.subject.rfc4514_string()!r} does not belong to the CA key in the token.",
            "restore the CA certificate that belongs to this key.",
        )
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - NOT_BEFORE_SKEW)
        .next_update(now + validity)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    for serial, when in sorted(revoked.items()):
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
        )
    return builder.sign(signer, hash_for(signer))
