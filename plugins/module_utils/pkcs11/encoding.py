# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encodings at the edge of PKCS#11: DER points and signatures, key URIs and their PEM form."""

from __future__ import annotations

import base64
import urllib.parse

from .objects import CURVE_BYTES, Pkcs11Error, token_label

DER_UTF8_STRING = 0x0C
DER_SEQUENCE = 0x30
DER_VISIBLE_STRING = 0x1A


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def ec_point(raw: bytes, curve: str) -> bytes:
    """The uncompressed point; tokens return it bare or inside an OCTET STRING."""
    size = 1 + 2 * CURVE_BYTES[curve]
    for candidate in (raw, raw[2:], raw[3:]):
        if len(candidate) == size and candidate[0] == 4:
            return candidate
    raise Pkcs11Error(
        "KEY_UNREADABLE",
        f"the token returned a public key of {len(raw)} bytes that is no uncompressed {curve} point.",
        "read the key with pkcs11-tool --read-object --type pubkey and report what the token is.",
    )


def raw_ecdsa_to_der(raw: bytes) -> bytes:
    """PKCS#11 gives r and s side by side; X.509, TLS and OpenSSL want a DER sequence."""
    if not raw or len(raw) % 2:
        raise ValueError("an ECDSA signature has two halves of equal size")
    half = len(raw) // 2

    def integer(part: bytes) -> bytes:
        value = int.from_bytes(part, "big")
        return _der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    return _der(DER_SEQUENCE, integer(raw[:half]) + integer(raw[half:]))


def key_uri(token: str, key: str) -> str:
    """RFC 7512 URI of a private key, by the labels of token and key; without any secret in it."""
    return f"pkcs11:token={_uri_quote(token_label(token))};object={_uri_quote(key)};type=private"


def _uri_quote(text: str) -> str:
    unreserved = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
    return "".join(chr(byte) if byte in unreserved else f"%{byte:02X}" for byte in text.encode())


def uri_pem(uri: str) -> str:
    """Wrap a PKCS#11 URI the way pkcs11-provider (0.4 and later) reads it in place of a key file."""
    description = _der(DER_VISIBLE_STRING, b"PKCS#11 Provider URI v1.0")
    body = base64.b64encode(
        _der(DER_SEQUENCE, description + _der(DER_UTF8_STRING, uri.encode()))
    ).decode()
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join(
        ["-----BEGIN PKCS#11 PROVIDER URI-----", *lines, "-----END PKCS#11 PROVIDER URI-----", ""]
    )


def key_label(pem: str) -> str | None:
    """Label of the private key whose PKCS#11 URI is wrapped in a PEM text, None without one."""
    begin, end = "-----BEGIN PKCS#11 PROVIDER URI-----", "-----END PKCS#11 PROVIDER URI-----"
    _before, found, rest = pem.partition(begin)
    if not found or end not in rest:
        return None
    try:
        content = base64.b64decode("".join(rest.partition(end)[0].split()), validate=True)
    except ValueError:
        return None
    uri = content.partition(b"pkcs11:")[2].decode(errors="replace")
    values = dict(part.partition("=")[::2] for part in uri.split(";"))
    return urllib.parse.unquote(values["object"]) if "object" in values else None
