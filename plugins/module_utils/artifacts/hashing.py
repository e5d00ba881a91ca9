# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SHA-256 of files and of their pieces."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .names import ArtifactError

PIECE_SIZE = 64 * 1024 * 1024
BLOCK = 1024 * 1024


@dataclass(frozen=True)
class FileHash:
    """Size and SHA-256 of a file, and the SHA-256 of each of its pieces."""

    size: int
    sha256: str
    pieces: tuple[str, ...]


class PieceHasher:
    """Hash a stream as a whole and piece by piece, in one pass over the bytes."""

    def __init__(self, piece_size: int = PIECE_SIZE) -> None:
        self._piece_size = piece_size
        self._whole = hashlib.sha256()
        self._piece = hashlib.sha256()
        self._in_piece = 0
        self._size = 0
        self._pieces: list[str] = []

    def update(self, data: bytes) -> None:
        self._whole.update(data)
        self._size += len(data)
        view = memoryview(data)
        while view:
            part = view[: self._piece_size - self._in_piece]
            self._piece.update(part)
            self._in_piece += len(part)
            view = view[len(part) :]
            if self._in_piece == self._piece_size:
                self._end_piece()

    def _end_piece(self) -> None:
        self._pieces.append(self._piece.hexdigest())
        self._piece = hashlib.sha256()
        self._in_piece = 0

    def finish(self) -> FileHash:
        if self._in_piece:
            self._end_piece()
        return FileHash(self._size, self._whole.hexdigest(), tuple(self._pieces))


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str) -> str:
    """SHA-256 of a file; does not follow a symbolic link."""
    whole = hashlib.sha256()
    with open_regular(path) as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            whole.update(block)
    return whole.hexdigest()


def hash_file(path: str, piece_size: int = PIECE_SIZE) -> FileHash:
    """Hash one file and its pieces; does not follow a symbolic link."""
    hasher = PieceHasher(piece_size)
    with open_regular(path) as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            hasher.update(block)
    return hasher.finish()


def open_regular(path: str) -> Any:
    """Open to read, without following a final symbolic link: a path checked earlier may have been replaced."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def worker_count(jobs: int) -> int:
    """Threads for hashing: hashlib releases the interpreter lock, so one per core pays off."""
    return max(1, min(jobs, os.cpu_count() or 1, 16))


def hash_files(
    directory: str, paths: Sequence[str], piece_size: int = PIECE_SIZE
) -> dict[str, FileHash]:
    """Hash several files of a directory, the largest first so that no core idles at the end."""
    ordered = sorted(paths, key=lambda path: -os.lstat(os.path.join(directory, path)).st_size)
    with ThreadPoolExecutor(max_workers=worker_count(len(ordered))) as pool:
        jobs = {
            path: pool.submit(hash_file, os.path.join(directory, path), piece_size)
            for path in ordered
        }
        return {path: job.result() for path, job in jobs.items()}
