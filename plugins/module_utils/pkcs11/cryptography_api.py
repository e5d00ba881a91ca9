# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this package uses of `cryptography`, or why that cannot be imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

from .objects import Pkcs11Error

__all__ = (
    "CRYPTOGRAPHY_ERROR",
    "EllipticCurveBase",
    "ExtendedKeyUsageOID",
    "InvalidSignature",
    "NameOID",
    "PublicKey",
    "RsaBase",
    "ec",
    "hashes",
    "padding",
    "require_cryptography",
    "rsa",
    "serialization",
    "x509",
)

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
        EllipticCurveBase = RsaBase = object
        x509 = hashes = serialization = ec = padding = rsa = None
        InvalidSignature = ExtendedKeyUsageOID = NameOID = None
    # a name of types only
    PublicKey = None


def require_cryptography() -> None:
    """Fail with a remedy where the library is missing."""
    if CRYPTOGRAPHY_ERROR is not None:
        raise Pkcs11Error(
            "CRYPTOGRAPHY_MISSING",
            f"cryptography cannot be imported: {CRYPTOGRAPHY_ERROR}.",
            "install python3-cryptography.",
        )
