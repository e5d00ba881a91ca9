# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every fault of a bundle at once; also the program that a bundle carries, for a machine with Python and openssl alone.

python3 bundle_verify.pyz DIRECTORY PUBLIC_KEY
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..artifacts.files import read_small
from ..artifacts.hashing import BLOCK, PIECE_SIZE, FileHash, open_regular, worker_count
from ..artifacts.manifest import FileEntry, Manifest, parse_manifest
from ..artifacts.metalink import check_metalink
from ..artifacts.names import MANIFEST, PIECES, ArtifactError
from ..common.findings import Finding
from .layout import MANIFEST_SIGNATURE, METADATA, Description, describe_bundle
from .signature import check_signature

_COPY = "Copy it from the medium again"
_NOT_OURS = "Get the bundle again from where it was made; use nothing of this one"


@dataclass
class Examined:
    """What a bundle is, as far as it could be read, and everything that is wrong with it."""

    manifest: Manifest | None = None
    description: Description | None = None
    faults: list[Finding] = field(default_factory=list)


def examine(directory: str, public_key: bytes) -> Examined:
    """Read every byte of a bundle and list every fault, each with its file and what to do about it."""
    found = Examined()
    try:
        data = read_small(os.path.join(directory, MANIFEST))
    except (OSError, ArtifactError) as error:
        found.faults.append(Finding(MANIFEST, f"it cannot be read: {error}", _COPY))
        return found
    found.faults.extend(_signature(directory, data, public_key))
    try:
        found.manifest = parse_manifest(data)
        found.description = describe_bundle(found.manifest)
    except ArtifactError as error:
        found.faults.append(Finding(MANIFEST, str(error), _NOT_OURS))
    if found.manifest is not None:
        found.faults.extend(_files(directory, found.manifest))
    return found


def _signature(directory: str, data: bytes, public_key: bytes) -> Iterator[Finding]:
    try:
        signature = read_small(os.path.join(directory, MANIFEST_SIGNATURE))
    except (OSError, ArtifactError) as error:
        yield Finding(MANIFEST_SIGNATURE, f"it cannot be read: {error}", _COPY)
        return
    try:
        check_signature(public_key, data, signature)
    except ArtifactError as error:
        remedy = f"Copy {MANIFEST} and it again, and compare the public key with that of the maker"
        yield Finding(MANIFEST_SIGNATURE, str(error), remedy)


def _files(directory: str, manifest: Manifest) -> Iterator[Finding]:
    wrong: list[Finding] = []
    pieces: dict[str, FileHash] = {}
    try:
        pieces = check_metalink(read_small(os.path.join(directory, PIECES)), manifest)
    except (OSError, ArtifactError) as error:
        wrong.append(Finding(PIECES, str(error), _COPY))
    jobs: list[tuple[str, int, int, str]] = []
    for path, entry in sorted(manifest.files.items()):
        fault = _shape(directory, path, entry)
        wrong += [fault] if fault is not None else []
        if fault is None:
            jobs += _jobs(path, entry, pieces.get(path))
    # By piece and not by file: a part of 4 GB would keep one processor busy, and the others idle.
    with ThreadPoolExecutor(max_workers=worker_count(len(jobs))) as pool:
        results = pool.map(lambda job: _piece(directory, *job), jobs)
        wrong += [result for result in results if result is not None]
    yield from sorted(wrong, key=lambda finding: finding.where)
    for name in sorted(set(os.listdir(directory)) - {*manifest.files, *METADATA}):
        yield Finding(name, "it is no part of this bundle", "Remove it, or find out what it is")


def _jobs(path: str, entry: FileEntry, hashed: FileHash | None) -> list[tuple[str, int, int, str]]:
    """What is to be read of a file, with its SHA-256: its pieces, or all of it where these are not known."""
    if hashed is None or not hashed.pieces:
        return [(path, 0, entry.size, entry.sha256)]
    return [
        (path, number * PIECE_SIZE, min(PIECE_SIZE, entry.size - number * PIECE_SIZE), digest)
        for number, digest in enumerate(hashed.pieces)
    ]


def _shape(directory: str, path: str, expected: FileEntry) -> Finding | None:
    try:
        status = os.lstat(os.path.join(directory, path))
    except FileNotFoundError:
        return Finding(path, "it is missing", _COPY)
    except OSError as error:
        return Finding(path, f"it cannot be read: {error}", _COPY)
    if not stat.S_ISREG(status.st_mode):
        return Finding(path, "it is no regular file", "Replace it by the file itself")
    if status.st_size != expected.size:
        return Finding(path, f"it has {status.st_size} bytes of {expected.size}", _COPY)
    return None


def _piece(directory: str, path: str, start: int, size: int, digest: str) -> Finding | None:
    found = hashlib.sha256()
    try:
        with open_regular(os.path.join(directory, path)) as stream:
            stream.seek(start)
            while size > 0 and (block := stream.read(min(size, BLOCK))):
                found.update(block)
                size -= len(block)
    except (OSError, ArtifactError) as error:
        return Finding(path, f"it cannot be read: {error}", _COPY)
    if found.hexdigest() != digest:
        what = f"its bytes from {start} on differ from those that were signed (SHA-256 {digest})"
        return Finding(path, what, _COPY)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every fault; the status is 0 for a bundle without one, 1 for one with faults, and 2 for wrong arguments."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 2:
        sys.stderr.write("usage: python3 bundle_verify.pyz DIRECTORY PUBLIC_KEY\n")
        return 2
    directory, key_file = given
    try:
        public_key = read_small(key_file, 65536)
        found = examine(directory, public_key)
    except (OSError, ArtifactError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for finding in found.faults:
        sys.stdout.write(f"{finding}\n")
    if found.faults or found.manifest is None or found.description is None:
        sys.stdout.write(f"{len(found.faults)} faults: use nothing of {directory}\n")
        return 1
    size = sum(entry.size for entry in found.manifest.files.values())
    sys.stdout.write(
        f"bundle {found.description.serial} is whole and signed by this key: "
        f"{len(found.manifest.files)} files, {size} bytes\n"
    )
    return 0
