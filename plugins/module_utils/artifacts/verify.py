# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every difference between a directory and the artifact that it should be."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .files import read_small
from .hashing import sha256_file, sha256_hex, worker_count
from .manifest import FileEntry, Manifest, parse_manifest
from .metalink import check_metalink
from .names import MANIFEST, PIECES, RESERVED, SIGNATURE, ArtifactError
from .signatures import verify_model_signature


@dataclass(frozen=True)
class Difference:
    """One way in which a directory is not the artifact it should be."""

    path: str
    kind: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        return {"path": self.path, "kind": self.kind, "detail": self.detail}

    def __str__(self) -> str:
        return f"{self.path}: {self.kind} ({self.detail})"


def _check_metadata(directory: str, digest: str, differences: list[Difference]) -> Manifest | None:
    try:
        data = read_small(os.path.join(directory, MANIFEST))
    except (OSError, ArtifactError) as error:
        differences.append(Difference(MANIFEST, "missing", str(error)))
        return None
    found = sha256_hex(data)
    if found != digest:
        differences.append(Difference(MANIFEST, "sha256", f"expected {digest}, found {found}"))
        return None
    try:
        return parse_manifest(data)
    except ArtifactError as error:
        differences.append(Difference(MANIFEST, "invalid", str(error)))
        return None


def _check_file(directory: str, path: str, expected: FileEntry, full: bool) -> Difference | None:
    full_path = os.path.join(directory, path)
    try:
        status = os.lstat(full_path)
    except (FileNotFoundError, NotADirectoryError):
        return Difference(path, "missing", f"expected {expected.size} bytes")
    if not stat.S_ISREG(status.st_mode):
        return Difference(path, "type", "not a regular file")
    if status.st_size != expected.size:
        return Difference(path, "size", f"expected {expected.size} bytes, found {status.st_size}")
    if status.st_mode & 0o222:
        return Difference(
            path, "mode", f"writable: expected 0444, found {stat.S_IMODE(status.st_mode):04o}"
        )
    if not full:
        return None
    try:
        found = sha256_file(full_path)
    except (OSError, ArtifactError) as error:
        return Difference(path, "unreadable", str(error))
    if found != expected.sha256:
        return Difference(path, "sha256", f"expected {expected.sha256}, found {found}")
    return None


def _unexpected(directory: str, known: Iterable[str]) -> list[Difference]:
    wanted = set(known)
    differences: list[Difference] = []
    for root, directories, files in os.walk(directory):
        for name in directories + files:
            path = os.path.relpath(os.path.join(root, name), directory)
            full = os.path.join(root, name)
            if os.path.islink(full):
                differences.append(Difference(path, "type", "symbolic link"))
            elif name in files and path not in wanted:
                differences.append(Difference(path, "unexpected", f"not listed in {MANIFEST}"))
    return differences


def verify_directory(
    directory: str,
    digest: str,
    full: bool = True,
    public_key: bytes | None = None,
    expect: tuple[str, str] | None = None,
) -> tuple[Manifest | None, list[Difference]]:
    """Compare a directory with the artifact *digest* and list every difference, not just the first.

    With *full*, every byte is hashed; otherwise sizes, modes and metadata are compared. With
    *public_key*, ``model.sig`` must verify too. *expect* is the (kind, name) the manifest must state.
    """
    if os.path.islink(directory) or not os.path.isdir(directory):
        return None, [Difference(".", "missing", f"{directory} is not a directory")]
    differences: list[Difference] = []
    manifest = _check_metadata(directory, digest, differences)
    if manifest is None:
        return None, differences
    if expect is not None and (manifest.kind, manifest.name) != expect:
        detail = "is a {} of {}, expected a {} of {}".format(manifest.kind, manifest.name, *expect)
        differences.append(Difference(MANIFEST, "invalid", detail))
    pieces = _check_file(directory, PIECES, manifest.pieces, True)
    if pieces is not None:
        differences.append(pieces)
    elif full:
        try:
            check_metalink(read_small(os.path.join(directory, PIECES)), manifest)
        except ArtifactError as error:
            differences.append(Difference(PIECES, "invalid", str(error)))
    differences.extend(_check_signature_file(directory, manifest, public_key))
    ordered = sorted(manifest.files, key=lambda path: -manifest.files[path].size)
    with ThreadPoolExecutor(max_workers=worker_count(len(ordered))) as pool:
        results = pool.map(
            lambda path: _check_file(directory, path, manifest.files[path], full), ordered
        )
        differences.extend(result for result in results if result is not None)
    differences.extend(_unexpected(directory, list(manifest.files) + list(RESERVED)))
    # A listed path that is a symbolic link is found twice, by its type and as a link: say it once.
    unique = {(item.path, item.kind): item for item in reversed(differences)}
    return manifest, sorted(unique.values(), key=lambda item: (item.path, item.kind))


def _check_signature_file(
    directory: str, manifest: Manifest, public_key: bytes | None
) -> list[Difference]:
    path = os.path.join(directory, SIGNATURE)
    if not os.path.lexists(path):
        return [Difference(SIGNATURE, "missing", "the artifact is not signed")]
    if public_key is None:
        return []
    try:
        verify_model_signature(public_key, read_small(path), manifest)
    except (OSError, ArtifactError) as error:
        return [Difference(SIGNATURE, "signature", str(error))]
    return []
