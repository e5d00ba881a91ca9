# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""X.509 with keys that stay in a token: the builders of `cryptography` over a key object that signs there."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Union

from . import constraints as pkcs11_constraints
from .session import Key, Pkcs11Error, PublicNumbers, Session

CRYPTOGRAPHY_ERROR: str | None = None

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    EllipticCurveBase = ec.EllipticCurvePrivateKey
    RsaBase = rsa.RSAPrivateKey
    PublicKey = Union[ec.EllipticCurvePublicKey, rsa.RSAPublicKey]
else:
    try:
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

        EllipticCurveBase = ec.EllipticCurvePrivateKey
        RsaBase = rsa.RSAPrivateKey
    except ImportError as error:
        CRYPTOGRAPHY_ERROR = str(error)
        EllipticCurveBase = object
        RsaBase = object

# A root signs CAs, and a CA signs hosts and no further CA.
PATH_LENGTHS = {"root": 1, "ca": 0}
PROFILES = ("root", "ca", "server", "client", "peer")
# A certificate must be good at once on hosts whose clocks are a little behind.
NOT_BEFORE_SKEW = datetime.timedelta(hours=1)


def require_cryptography() -> None:
    """Fail with a remedy where the library is missing."""
    if CRYPTOGRAPHY_ERROR is not None:
        raise Pkcs11Error(
            "CRYPTOGRAPHY_MISSING",
            f"cryptography cannot be imported: {CRYPTOGRAPHY_ERROR}.",
            "install python3-cryptography.",
        )


def _stays_in_token() -> NoReturn:
    raise Pkcs11Error(
        "KEY_STAYS", "the private key lives in a token.", "use it for signatures only."
    )


class TokenEllipticCurveKey(EllipticCurveBase):
    """An EC private key that signs in its token and can do nothing else."""

    def __init__(self, session: Session, key: Key, public: ec.EllipticCurvePublicKey) -> None:
        self._session = session
        self._key = key
        self._public = public

    def sign(self, data: Any, signature_algorithm: Any) -> bytes:
        return self._session.sign(self._key, bytes(data), signature_algorithm.algorithm.name)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def exchange(self, algorithm: Any, peer_public_key: Any) -> bytes:
        _stays_in_token()

    def private_numbers(self) -> Any:
        _stays_in_token()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:
        _stays_in_token()

    def __copy__(self) -> TokenEllipticCurveKey:
        return self

    def __deepcopy__(self, memo: Any) -> TokenEllipticCurveKey:
        return self


class TokenRsaKey(RsaBase):
    """An RSA private key that signs in its token and can do nothing else."""

    def __init__(self, session: Session, key: Key, public: rsa.RSAPublicKey) -> None:
        self._session = session
        self._key = key
        self._public = public

    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
        return self._session.sign(self._key, bytes(data), algorithm.name)

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def decrypt(self, ciphertext: bytes, padding: Any) -> bytes:
        _stays_in_token()

    def private_numbers(self) -> Any:
        _stays_in_token()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:
        _stays_in_token()

    def __copy__(self) -> TokenRsaKey:
        return self

    def __deepcopy__(self, memo: Any) -> TokenRsaKey:
        return self


TokenKey = Union[TokenEllipticCurveKey, TokenRsaKey]


def public_key(numbers: PublicNumbers) -> PublicKey:
    """The public key as `cryptography` knows it."""
    require_cryptography()
    if numbers.point:
        curve: ec.EllipticCurve = ec.SECP256R1() if numbers.spec == "EC P-256" else ec.SECP384R1()
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, numbers.point)
    if numbers.modulus:
        return rsa.RSAPublicNumbers(numbers.exponent, numbers.modulus).public_key()
    raise Pkcs11Error(
        "KEY_UNSUPPORTED",
        f"a key of kind {numbers.spec!r} cannot be used.",
        "generate an EC P-256 key.",
    )


def public_pem(numbers: PublicNumbers) -> str:
    """SubjectPublicKeyInfo in PEM."""
    return _spki(public_key(numbers), pem=True).decode()


def _spki(key: Any, pem: bool = False) -> bytes:
    encoding = serialization.Encoding.PEM if pem else serialization.Encoding.DER
    data: bytes = key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data


def token_key(session: Session, label: str) -> TokenKey:
    """The key with this label as an object that the X.509 builders take."""
    key = session.key(label)
    public = public_key(key.public)
    if isinstance(public, ec.EllipticCurvePublicKey):
        return TokenEllipticCurveKey(session, key, public)
    return TokenRsaKey(session, key, public)


def label_of(session: Session, certificate: x509.Certificate) -> str:
    """Label of the key in the token that the certificate is for."""
    for key in session.private_keys():
        usable = key.public.point or key.public.modulus
        if usable and same_key(public_key(key.public), certificate.public_key()):
            return key.label
    raise Pkcs11Error(
        "KEY_MISSING",
        f"token {session.token.label!r} has no private key for the certificate of {common_name(certificate)!r}.",
        "restore the token, or issue a certificate for a key that it has.",
    )


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


def crl_pem(crl: x509.CertificateRevocationList) -> str:
    """The revocation list in PEM."""
    return crl.public_bytes(serialization.Encoding.PEM).decode()


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 fingerprint in lower-case hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def not_after(certificate: x509.Certificate) -> datetime.datetime:
    """End of validity with its time zone; cryptography before 42 knows only the naive form."""
    return _aware(certificate, "not_valid_after")


def not_before(certificate: x509.Certificate) -> datetime.datetime:
    """Start of validity with its time zone."""
    return _aware(certificate, "not_valid_before")


def _aware(certificate: Any, name: str) -> datetime.datetime:
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
    return sorted(_name_text(name) for name in extension.value)


def _name_text(name: x509.GeneralName) -> str:
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


def same_key(one: Any, other: Any) -> bool:
    """Whether two public keys are one."""
    return _spki(one) == _spki(other)


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
    names = sorted(_name_text(name) for name in parse_names(list(wanted.names)))
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


def _hash_for(signer: TokenKey) -> hashes.SHA256 | hashes.SHA384:
    return (
        hashes.SHA384()
        if isinstance(signer, TokenEllipticCurveKey) and signer.key_size == 384
        else hashes.SHA256()
    )


def self_signed(wanted: Wanted, signer: TokenKey, now: datetime.datetime) -> x509.Certificate:
    """A certificate for the key, signed by the key itself."""
    public = signer.public_key()
    return _builder(wanted, wanted.subject, public, public, now).sign(signer, _hash_for(signer))


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
        signer, _hash_for(signer)
    )


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
    return {entry.serial_number: _aware(entry, "revocation_date") for entry in crl}


def next_update(crl: x509.CertificateRevocationList) -> datetime.datetime:
    """When the list ends; without an end it is as good as ended."""
    name = "next_update_utc" if hasattr(crl, "next_update_utc") else "next_update"
    if getattr(crl, name) is None:
        return datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)
    return _aware(crl, "next_update")


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
    return builder.sign(signer, _hash_for(signer))


def signing_request(common_name_wanted: str, names: list[str], signer: TokenKey) -> str:
    """A certificate signing request in PEM by a key in a token."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name_wanted)])
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(parse_names(names)), critical=False
        )
    return builder.sign(signer, _hash_for(signer)).public_bytes(serialization.Encoding.PEM).decode()


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
