# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures of releases (ECDSA) and of artifacts (Sigstore bundles of model-signing)."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from .manifest import Manifest
from .names import MANIFEST, PIECES, SIGNATURE, ArtifactError

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False
_IN_TOTO = "application/vnd.in-toto+json"


def _public_key(pem: bytes) -> Any:
    if not HAS_CRYPTOGRAPHY:
        raise ArtifactError(
            "the Python library 'cryptography' is missing: install python3-cryptography"
        )
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise ArtifactError(f"the release public key is not a PEM public key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ArtifactError("the release public key is not an EC P-256 key")
    return key


def _verify_der(pem: bytes, signature: bytes, data: bytes) -> bool:
    try:
        _public_key(pem).verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def verify_release_signature(pem: bytes, data: bytes, signature: bytes) -> None:
    """Check ``<version>.json.sig`` (base64 of a DER ECDSA-SHA256 signature) or say what is wrong."""
    try:
        der = base64.b64decode(signature.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ArtifactError("the release signature is not base64") from error
    if not _verify_der(pem, der, data):
        raise ArtifactError("the release signature does not verify against the release public key")


def encode_signature(der: bytes) -> bytes:
    return base64.b64encode(der) + b"\n"


def _bundle_statement(pem: bytes, bundle: bytes) -> Any:
    """Return the signed statement of a Sigstore bundle (a DSSE envelope) after checking its signature."""
    try:
        envelope = json.loads(bundle.decode("utf-8"))["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        kind = envelope["payloadType"]
        (signature,) = envelope["signatures"]
        der = base64.b64decode(signature["sig"], validate=True)
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{SIGNATURE} is not a model-signing bundle") from error
    if kind != _IN_TOTO:
        raise ArtifactError(f"{SIGNATURE} signs a payload of type {kind!r}")
    encoded_kind = kind.encode("ascii")
    message = b"DSSEv1 %d %s %d %s" % (len(encoded_kind), encoded_kind, len(payload), payload)
    if not _verify_der(pem, der, message):
        raise ArtifactError(f"{SIGNATURE} does not verify against the release public key")
    return json.loads(payload.decode("utf-8"))


def verify_model_signature(pem: bytes, bundle: bytes, manifest: Manifest) -> None:
    """Check ``model.sig``: signed by the site's key, over exactly the files of this artifact.

    The bundle lists a SHA-256 per file. Comparing that list with the manifest is enough here: the
    bytes on disk are compared with the manifest by :func:`verify_directory`.
    """
    statement = _bundle_statement(pem, bundle)
    expected = {path: entry.sha256 for path, entry in manifest.files.items()}
    expected[MANIFEST] = manifest.digest
    expected[PIECES] = manifest.pieces.sha256
    try:
        resources = statement["predicate"]["resources"]
        signed = {
            item["name"]: item["digest"] for item in resources if item["algorithm"] == "sha256"
        }
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{SIGNATURE} has no list of signed files") from error
    if signed != expected or len(resources) != len(expected):
        raise ArtifactError(f"{SIGNATURE} was made for other files than {MANIFEST} lists")
