# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Issue certificates and requests with keys that stay in a token."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from . import constraints as pkcs11_constraints
from .certificates import (
    NOT_BEFORE_SKEW,
    certificate_names,
    common_name,
    name_text,
    not_after,
    not_before,
    parse_names,
    signature_valid,
    signed_by,
)
from .cryptography_api import ExtendedKeyUsageOID, NameOID, serialization, x509
from .objects import Pkcs11Error
from .revocation import revoked_serials
from .session import Session
from .token_keys import TokenKey, hash_for, public_key, same_key

# A root signs CAs, and a CA signs hosts and no further CA.
PATH_LENGTHS = {"root": 1, "ca": 0}
PROFILES = ("root", "ca", "server", "client", "peer")


@dataclass(frozen=True)
class Wanted:
    """What a certificate shall say."""

    common_name: str
    names: tuple[str, ...]
    profile: str
    validity_days: int
    renew_before_days: int
    # What a CA may sign, `DNS:domain` and `IP:network`; empty is everything.
    permitted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"profile {self.profile!r} is none of {', '.join(PROFILES)}")
        if self.permitted and self.profile not in PATH_LENGTHS:
            raise Pkcs11Error(
                "PERMITTED",
                f"a certificate of profile {self.profile} signs nothing, so that nothing can be permitted.",
                "leave permitted out, or use profile ca.",
            )
        if not 0 <= self.renew_before_days < self.validity_days:
            raise Pkcs11Error(
                "VALIDITY",
                f"renewing {self.renew_before_days} days before the end of {self.validity_days} days would renew at every run.",
                "make renew_before_days smaller than validity_days.",
            )

    @property
    def subject(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.common_name)])

    @property
    def extended_usages(self) -> list[x509.ObjectIdentifier]:
        usages = []
        if self.profile in ("server", "peer"):
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        if self.profile in ("client", "peer"):
            usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        return usages


def _usages(certificate: x509.Certificate) -> tuple[int | None, list[str]]:
    """Path length of a CA, None for anything else; and the extended usages."""
    authority: int | None = None
    extended: list[str] = []
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            length = extension.value.path_length
            authority = -1 if length is None else length
        if isinstance(extension.value, x509.ExtendedKeyUsage):
            extended = sorted(oid.dotted_string for oid in extension.value)
    return authority, extended


def recreate_reason(
    current: x509.Certificate | None,
    wanted: Wanted,
    key: Any,
    issuer: x509.Certificate | None,
    now: datetime.datetime,
    crl: x509.CertificateRevocationList | None = None,
) -> str | None:
    """Why a new certificate is needed, or None. Without an issuer the certificate signs itself."""
    if current is None:
        return "there is no certificate yet"
    if crl is not None and current.serial_number in revoked_serials(crl):
        return "it is revoked"
    if not same_key(current.public_key(), key):
        return "the certificate is for another key"
    if current.subject != wanted.subject:
        return f"the subject is {current.subject.rfc4514_string()!r}, wanted {wanted.subject.rfc4514_string()!r}"
    names = sorted(name_text(name) for name in parse_names(list(wanted.names)))
    if certificate_names(current) != names:
        return f"the names are {', '.join(certificate_names(current)) or 'none'}, wanted {', '.join(names) or 'none'}"
    if _usages(current) != (
        PATH_LENGTHS.get(wanted.profile),
        sorted(oid.dotted_string for oid in wanted.extended_usages),
    ):
        return f"its usages are not those of profile {wanted.profile}"
    if not signed_by(current, issuer or current):
        return "it was not signed by the present CA"
    if reason := pkcs11_constraints.recreate_reason(current, wanted.permitted):
        return reason
    if not_before(current) > now:
        return f"it is valid only from {not_before(current).isoformat()}; check the clock"
    left = not_after(current) - now
    if left <= datetime.timedelta(days=wanted.renew_before_days):
        return f"it ends {not_after(current).isoformat()}, in {max(left.days, 0)} days, and is renewed {wanted.renew_before_days} days before"
    return None


def _builder(
    wanted: Wanted, issuer: x509.Name, key: Any, issuer_key: Any, now: datetime.datetime
) -> x509.CertificateBuilder:
    length = PATH_LENGTHS.get(wanted.profile)
    authority = length is not None
    identifier = x509.SubjectKeyIdentifier.from_public_key(key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(wanted.subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - NOT_BEFORE_SKEW)
        .not_valid_after(now + datetime.timedelta(days=wanted.validity_days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=length), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
        .add_extension(_key_usage(authority), critical=True)
    )
    if wanted.permitted:
        builder = builder.add_extension(
            pkcs11_constraints.extension_of(wanted.permitted), critical=True
        )
    if wanted.extended_usages:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage(wanted.extended_usages), critical=False
        )
    if wanted.names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(parse_names(list(wanted.names))), critical=False
        )
    return builder


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def self_signed(wanted: Wanted, signer: TokenKey, now: datetime.datetime) -> x509.Certificate:
    """A certificate for the key, signed by the key itself."""
    public = signer.public_key()
    return _builder(wanted, wanted.subject, public, public, now).sign(signer, hash_for(signer))


def issue(
    wanted: Wanted, key: Any, issuer: x509.Certificate, signer: TokenKey, now: datetime.datetime
) -> x509.Certificate:
    """A certificate for a public key, signed by the CA whose key is in the token."""
    if not same_key(issuer.public_key(), signer.public_key()):
        raise Pkcs11Error(
            "CA_MISMATCH",
            f"the CA certificate {issuer.subject.rfc4514_string()!r} does not belong to the CA key in the token.",
            "restore the CA certificate that belongs to this key, or renew it with provider=selfsigned.",
        )
    pkcs11_constraints.check_allowed(issuer, wanted.names)
    end = now + datetime.timedelta(days=wanted.validity_days)
    if not_after(issuer) < end:
        raise Pkcs11Error(
            "CA_ENDS",
            f"the CA certificate ends {not_after(issuer).isoformat()}, before the new certificate would ({end.isoformat()}).",
            "renew the CA certificate first, or ask for fewer validity_days.",
        )
    return _builder(wanted, issuer.subject, key, issuer.public_key(), now).sign(
        signer, hash_for(signer)
    )


def signing_request(common_name_wanted: str, names: list[str], signer: TokenKey) -> str:
    """A certificate signing request in PEM by a key in a token."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name_wanted)])
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(parse_names(names)), critical=False
        )
    return builder.sign(signer, hash_for(signer)).public_bytes(serialization.Encoding.PEM).decode()


def prove(session: Session, label: str, certificate: x509.Certificate | None, nonce: bytes) -> None:
    """Sign a nonce in the token and verify it; with a certificate, by the certificate's key."""
    key = session.key(label)
    signature = session.sign(key, nonce)
    if certificate is not None and not same_key(certificate.public_key(), public_key(key.public)):
        raise Pkcs11Error(
            "CERT_KEY_MISMATCH",
            f"the certificate of {common_name(certificate)!r} does not belong to key {label!r} in token {session.token.label!r}.",
            "issue a certificate for the key that is in the token.",
        )
    verifier = certificate.public_key() if certificate is not None else public_key(key.public)
    if not signature_valid(verifier, signature, nonce):
        raise Pkcs11Error(
            "SIGNATURE",
            f"key {label!r} in token {session.token.label!r} made a signature that its public key does not verify.",
            "the token is damaged: generate a new key.",
        )
