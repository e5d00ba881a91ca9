# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens and keys as this collection describes them, and what it requires of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..common.refusals import RefusalError

# DER object identifiers of the curves, as CKA_EC_PARAMS wants them.
CURVES: dict[str, bytes] = {
    "P-256": bytes.fromhex("06082a8648ce3d030107"),
    "P-384": bytes.fromhex("06052b81040022"),
}
CURVE_BYTES: dict[str, int] = {"P-256": 32, "P-384": 48}
RSA_BITS = (3072, 4096)
LABEL_BYTES = 32
# The standard fills a label with blanks; some programs leave NULs.
PADDING = " \0"
NO_PUBLIC = "no public key object"
# What a private key must be. A signing key that may also decrypt or unwrap is a wider door than needed.
REQUIRED_ATTRIBUTES: dict[str, bool] = {
    "token": True,
    "private": True,
    "sensitive": True,
    "extractable": False,
    "never_extractable": True,
    "local": True,
    "sign": True,
    "decrypt": False,
    "unwrap": False,
    "derive": False,
}


class Pkcs11Error(RefusalError):
    """Something is wrong, and this is what to do about it."""


@dataclass(frozen=True)
class TokenInfo:
    """One token as its library describes it."""

    slot: int
    label: str
    serial: str
    manufacturer: str
    model: str
    initialized: bool
    user_pin_initialized: bool
    pin_count_low: bool
    pin_final_try: bool
    pin_locked: bool

    @property
    def login_refusal(self) -> str | None:
        """Why no PIN may be tried now, or None. After one wrong PIN the right one may."""
        if self.pin_locked:
            return "the user PIN is locked"
        if self.pin_final_try:
            return "one more wrong PIN would lock the token"
        return None

    @property
    def unattended_refusal(self) -> str | None:
        """Why no PIN may be tried by what nobody has started, or None."""
        if self.login_refusal is None and self.pin_count_low:
            return "a wrong PIN was entered since the last good login"
        return self.login_refusal


@dataclass(frozen=True)
class KeySpec:
    """What kind of key to generate."""

    kind: str = "EC"
    curve: str = "P-256"
    bits: int = 3072

    def __post_init__(self) -> None:
        if self.kind not in ("EC", "RSA"):
            raise ValueError(f"key kind {self.kind!r} is neither EC nor RSA")
        if self.kind == "EC" and self.curve not in CURVES:
            raise ValueError(f"curve {self.curve!r} is none of {', '.join(sorted(CURVES))}")
        if self.kind == "RSA" and self.bits not in RSA_BITS:
            raise ValueError(f"an RSA key of {self.bits!r} bits is not offered, only 3072 and 4096")

    def __str__(self) -> str:
        return f"EC {self.curve}" if self.kind == "EC" else f"RSA {self.bits}"


@dataclass(frozen=True)
class PublicNumbers:
    """A public key as plain numbers: an EC point, or an RSA modulus and exponent."""

    spec: str
    point: bytes = b""
    modulus: int = 0
    exponent: int = 0


@dataclass(frozen=True)
class Key:
    """A private key in a token. The handle is good for the session that found it."""

    label: str
    key_id: str
    handle: Any = field(repr=False)
    attributes: dict[str, bool]
    public: PublicNumbers

    @property
    def weaknesses(self) -> list[str]:
        """Attributes that a key of ours must not have, worded for a person."""
        return [
            f"{name.upper()} is {self.attributes.get(name)}, must be {wanted}"
            for name, wanted in REQUIRED_ATTRIBUTES.items()
            if self.attributes.get(name) is not wanted
        ]


def token_label(label: str) -> str:
    """A token's label as it is compared: without the blanks (or NULs) that fill its 32 bytes.

    Raises Pkcs11Error for a label that no token can have.
    """
    normal = label.rstrip(PADDING)
    if not normal or not normal.isprintable() or len(normal.encode()) > LABEL_BYTES:
        raise Pkcs11Error(
            "TOKEN_LABEL",
            f"token label {label!r} is not 1 to {LABEL_BYTES} bytes of printable UTF-8.",
            "choose another label.",
        )
    return normal
