# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, digests and paths of artifacts and releases, and which of them are acceptable.

An artifact is an immutable directory ``<store>/<kind>/<name>/<digest>/``. Its digest is the SHA-256 of
its ``manifest.json``, which lists every payload file and pins ``pieces.meta4`` (Metalink, RFC 5854).
A release names artifacts by digest and is signed, so one signature vouches for every byte below it:
release.sig -> release.json -> digest -> manifest.json -> files and pieces.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

KINDS = ("checkpoint", "graph", "engine", "bundle")
# What a release names by digest. Engines are found by their key instead, so that a new kind of GPU adds one to what is published.
RELEASE_KINDS = ("checkpoint", "graph")
MANIFEST = "manifest.json"
PIECES = "pieces.meta4"
SIGNATURE = "model.sig"
RESERVED = (MANIFEST, PIECES, SIGNATURE)
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
# What a model, a version and a precision may be called: one component of a path.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


class ArtifactError(Exception):
    """An artifact, release or path is not acceptable; the message says which and why."""


def check_name(value: object, what: str) -> str:
    """Return a model name, version or precision that is safe as one path component."""
    if not isinstance(value, str) or not re.fullmatch(NAME, value):
        raise ArtifactError(
            f"{what} {value!r} is not usable: it must start with a letter or digit and contain only letters, "
            "digits, '.', '_' and '-' (at most 128)"
        )
    return value


def check_digest(value: object, what: str) -> str:
    """Return a SHA-256 in lower-case hexadecimal."""
    if not isinstance(value, str) or not _HEX_DIGEST.match(value):
        raise ArtifactError(f"{what} {value!r} is not a SHA-256 in lower-case hexadecimal")
    return value


def check_relative_path(value: object) -> str:
    """Return a payload path that can neither leave its directory nor clash with the store's own names."""
    if not isinstance(value, str) or not value:
        raise ArtifactError(f"path {value!r} is not a non-empty string")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in value):
        raise ArtifactError(f"path {value!r} contains control or unencodable characters")
    if any(ord(char) & 0xFFFE == 0xFFFE for char in value):
        raise ArtifactError(f"path {value!r} contains characters that are none")
    if "\\" in value:
        raise ArtifactError(f"path {value!r} contains a backslash")
    if value.startswith("/"):
        raise ArtifactError(f"path {value!r} is absolute")
    if len(value.encode("utf-8")) > 1024:
        raise ArtifactError(f"path {value!r} is longer than 1024 bytes")
    for part in value.split("/"):
        if part in ("", ".", ".."):
            raise ArtifactError(f"path {value!r} contains the component {part!r}")
        if part.startswith("."):
            raise ArtifactError(f"path {value!r} contains the hidden component {part!r}")
    if value in RESERVED:
        raise ArtifactError(f"path {value!r} is a name that the store uses itself")
    if value.endswith(".aria2"):
        raise ArtifactError(f"path {value!r} ends in .aria2, which marks unfinished downloads")
    return value


def check_paths(paths: Iterable[object]) -> None:
    known = {check_relative_path(path) for path in paths}
    for path in known:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in known:
                raise ArtifactError(f"path {parent!r} is both a file and a directory")
            parent = parent.rpartition("/")[0]


def artifact_path(store: str, kind: str, name: str, digest: str) -> str:
    return os.path.join(store, kind, name, digest)


def release_path(store: str, model: str, version: str) -> str:
    return os.path.join(store, "releases", model, f"{version}.json")


def retired_path(store: str, model: str, version: str) -> str:
    """The record that a version was retired on this host; hidden, so that it is not served."""
    return os.path.join(store, "releases", model, f".{version}.retired")
