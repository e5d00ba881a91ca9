# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The signature of a bundle, checked by ``openssl``: a machine that has just been installed has no other program for it."""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
import tempfile

from ..artifacts.names import ArtifactError

# A public key of EC P-256 in DER begins so (RFC 5480), and has 65 bytes of a point after it.
_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


def check_public_key(pem: bytes) -> None:
    """Raise ArtifactError unless this is one EC P-256 key in PEM."""
    lines = pem.decode("ascii", "replace").split("\n")
    stripped = [line.strip() for line in lines if line.strip()]
    if stripped[:1] != ["-----BEGIN PUBLIC KEY-----"] or stripped[-1] != "-----END PUBLIC KEY-----":
        raise ArtifactError("the public key is no PEM public key")
    try:
        der = base64.b64decode("".join(stripped[1:-1]), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ArtifactError("the public key is no PEM public key") from error
    if not der.startswith(_P256) or len(der) != len(_P256) + 65:
        raise ArtifactError("the public key is not an EC P-256 key")


def check_signature(pem: bytes, data: bytes, signature: bytes) -> None:
    """Raise ArtifactError unless *signature*, base64 of a DER ECDSA signature, is of *data* and of this key."""
    check_public_key(pem)
    try:
        der = base64.b64decode(signature.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ArtifactError("the signature is not base64") from error
    with tempfile.TemporaryDirectory(prefix="bundle-") as directory:
        names = []
        for name, content in (("key.pem", pem), ("signature", der)):
            names.append(os.path.join(directory, name))
            with open(names[-1], "wb") as stream:
                stream.write(content)
        command = ["openssl", "dgst", "-sha256", "-verify", names[0], "-signature", names[1]]
        try:
            done = subprocess.run(command, input=data, capture_output=True, check=False)
        except FileNotFoundError as error:
            raise ArtifactError("openssl is missing: install the package openssl") from error
    if done.returncode != 0:
        raise ArtifactError("the signature does not verify against the public key")
