# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private keys that stay in a token, as key objects of `cryptography` that sign there."""

from __future__ import annotations

from typing import Any, NoReturn, Union

from .certificates import common_name
from .cryptography_api import (
    EllipticCurveBase,
    PublicKey,
    RsaBase,
    ec,
    hashes,
    require_cryptography,
    rsa,
    serialization,
    x509,
)
from .objects import Key, Pkcs11Error, PublicNumbers
from .session import Session


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
    return spki(public_key(numbers), pem=True).decode()


def spki(key: Any, pem: bool = False) -> bytes:
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


def same_key(one: Any, other: Any) -> bool:
    """Whether two public keys are one."""
    return spki(one) == spki(other)


def hash_for(signer: TokenKey) -> hashes.SHA256 | hashes.SHA384:
    return (
        hashes.SHA384()
        if isinstance(signer, TokenEllipticCurveKey) and signer.key_size == 384
        else hashes.SHA256()
    )
