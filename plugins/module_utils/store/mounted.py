# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A source that is a directory where a store is mounted: read its metadata, copy its files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote, urlsplit

from ..artifacts.files import ensure_directory, read_small
from ..artifacts.hashing import BLOCK, FileHash, PieceHasher, open_regular, worker_count
from ..artifacts.names import ArtifactError
from .model import METADATA_LIMIT, NO_SPACE, ReplicaError, SourceError, disk_full


def mounted_directory(url: str) -> str | None:
    """The directory that a ``file://`` URL names; None for a URL of another scheme.

    Raises ReplicaError if it names another host (RFC 8089 allows that) or no absolute path.
    """
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    if parts.netloc or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise ReplicaError(f"source {url!r} is not file:// and the absolute path of a directory")
    return unquote(parts.path)


def read_mounted(directory: str, path: str) -> bytes:
    try:
        return read_small(os.path.join(directory, path), METADATA_LIMIT)
    except FileNotFoundError as error:
        # A store has releases; without them this is the directory below a mount that is not there.
        if os.path.isdir(os.path.join(directory, "releases")):
            raise SourceError(f"it has no {path}") from error
        raise SourceError(f"{directory} holds no store; is it mounted?", dead=True) from error
    except OSError as error:
        raise SourceError(f"{error.filename}: {error.strerror}") from error


def copy_mounted(
    part: str, wanted: Mapping[str, FileHash], directories: Sequence[str]
) -> dict[str, FileHash]:
    """Copy files from where they are mounted, and give back those that no directory has as they were signed."""
    if not directories:
        return dict(wanted)

    for path in wanted:
        ensure_directory(os.path.dirname(os.path.join(part, path)))

    def copied(path: str) -> bool:
        target = os.path.join(part, path)
        for name in (target, f"{target}.aria2"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        return any(
            _copied(os.path.join(directory, path), target, wanted[path])
            for directory in directories
        )

    largest_first = sorted(wanted, key=lambda path: -wanted[path].size)
    try:
        with ThreadPoolExecutor(worker_count(len(largest_first))) as pool:
            found = list(pool.map(copied, largest_first))
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise disk_full(part) from error
    return {
        path: wanted[path] for path, right in zip(largest_first, found, strict=True) if not right
    }


def _copied(source: str, target: str, expected: FileHash) -> bool:
    """Copy a file if it is the expected one; else leave nothing behind."""
    hasher = PieceHasher()
    try:
        with open_regular(source) as reading, open(target, "xb") as writing:
            if os.fstat(reading.fileno()).st_size == expected.size:
                for block in iter(lambda: reading.read(BLOCK), b""):
                    hasher.update(block)
                    writing.write(block)
        if hasher.finish() == expected:
            return True
    except ArtifactError:
        return False
    except OSError as error:
        # What the disk here refuses is not the source's fault.
        if error.errno in NO_SPACE or error.filename == target:
            raise
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    return False
