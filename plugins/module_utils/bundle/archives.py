# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives of a bundle, the same bytes for the same files, split into parts: written, and unpacked again."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from typing import Any

from ..artifacts.files import DIRECTORY_MODE, list_directory
from ..artifacts.hashing import BLOCK, FileHash, PieceHasher, open_regular
from ..artifacts.manifest import Manifest
from ..artifacts.names import ArtifactError, check_relative_path
from .layout import part_name

_FILE_MODE = 0o644


class PartWriter:
    """A stream that is split into parts of at most *part_size* bytes.

    Bytes that a part on disk has already are compared and not written again, so that an interrupted run is resumed and a part that is
    whole is kept. With *write* false, nothing is written, and ``changed`` says what would be.
    """

    def __init__(self, directory: str, content: str, part_size: int, write: bool = True) -> None:
        self.parts: dict[str, FileHash] = {}
        self.changed: list[str] = []
        self._directory = directory
        self._content = content
        self._part_size = part_size
        self._write = write
        self._part: _Part | None = None

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            if self._part is None:
                name = part_name(self._content, len(self.parts))
                self._part = _Part(os.path.join(self._directory, name), self._write)
            taken = view[: self._part_size - self._part.size]
            self._part.add(taken)
            view = view[len(taken) :]
            if self._part.size == self._part_size:
                self._end_part()
        return len(data)

    def finish(self) -> None:
        if self._part is not None:
            self._end_part()

    def _end_part(self) -> None:
        part = self._part
        if part is None:
            raise ValueError("no part is open")
        name = os.path.basename(part.path)
        self.parts[name] = part.finish()
        if part.changed:
            self.changed.append(name)
        self._part = None


class _Part:
    """One part: read for as long as the file has the bytes, and written from the first that differs."""

    def __init__(self, path: str, write: bool) -> None:
        self.path = path
        self.size = 0
        self.changed = False
        self._write = write
        self._hasher = PieceHasher()
        self._old: Any = open_regular(path) if os.path.lexists(path) else None
        self._new: Any = None

    def add(self, data: memoryview) -> None:
        if not self.changed and (self._old is None or self._read(len(data)) != data):
            self._differ()
        if self._new is not None:
            self._new.write(data)
        self._hasher.update(bytes(data))
        self.size += len(data)

    def _read(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            block = self._old.read(count - len(found))
            if not block:
                break
            found += block
        return bytes(found)

    def _differ(self) -> None:
        self.changed = True
        if self._write:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._new = os.fdopen(os.open(self.path, flags, _FILE_MODE), "wb")
            self._new.truncate(self.size)
            self._new.seek(self.size)

    def finish(self) -> FileHash:
        if not self.changed and os.fstat(self._old.fileno()).st_size != self.size:
            self._differ()
        if self._old is not None:
            self._old.close()
        if self._new is not None:
            self._new.truncate(self.size)
            self._new.flush()
            os.fsync(self._new.fileno())
            self._new.close()
        return self._hasher.finish()


def pack(directory: str, writer: PartWriter) -> tuple[int, int]:
    """Write the files below a directory as one archive; returns their bytes and their number.

    Names are sorted, and time, owner and mode are the same for all. Raises ArtifactError for links and special files.
    """
    paths = list_directory(directory)
    size = 0
    # it has what tarfile needs of a stream, and not all that its type says
    target: Any = writer
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            with open_regular(os.path.join(directory, path)) as stream:
                entry = tarfile.TarInfo(check_relative_path(path))
                entry.size = os.fstat(stream.fileno()).st_size
                entry.mode = _FILE_MODE
                archive.addfile(entry, stream)
                size += entry.size
    writer.finish()
    return size, len(paths)


class _PartReader:
    """The parts of a content as one stream; each is hashed while it is read, so that what is unpacked is what was verified."""

    def __init__(self, directory: str, parts: Sequence[str], manifest: Manifest) -> None:
        self._directory = directory
        self._left = list(parts)
        self._manifest = manifest
        self._open: Any = None
        self._hasher = PieceHasher()

    def read(self, count: int) -> bytes:
        data = b""
        while not data and (self._open is not None or self._left):
            if self._open is None:
                self._open = open_regular(os.path.join(self._directory, self._left[0]))
                self._hasher = PieceHasher()
            data = self._open.read(min(count, BLOCK))
            self._hasher.update(data)
            if not data:
                self.end_part()
        return data

    def end_part(self) -> None:
        name = self._left.pop(0)
        self._open.close()
        self._open = None
        if self._hasher.finish().sha256 != self._manifest.files[name].sha256:
            raise ArtifactError(f"{name} was changed after it was verified")

    def rest(self) -> None:
        """Read what the archive's end left, so that every byte was hashed."""
        while self.read(BLOCK):
            pass


def unpack(directory: str, parts: Sequence[str], manifest: Manifest, target: str) -> int:
    """Unpack the archive of these parts into a new directory; returns the number of its files.

    Only regular files with acceptable paths are taken. Raises ArtifactError for anything else, and OSError.
    """
    reader = _PartReader(directory, parts, manifest)
    stream: Any = reader
    os.makedirs(target, mode=DIRECTORY_MODE)
    count = 0
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                _take(archive, entry, target)
                count += 1
    except tarfile.TarError as error:
        raise ArtifactError(f"{parts[0]} and what follows it are no archive: {error}") from error
    reader.rest()
    return count


def _take(archive: tarfile.TarFile, entry: tarfile.TarInfo, target: str) -> None:
    path = os.path.join(target, check_relative_path(entry.name))
    source = archive.extractfile(entry) if entry.isreg() else None
    if source is None:
        raise ArtifactError(f"the archive has {entry.name}, which is not a regular file")
    os.makedirs(os.path.dirname(path), mode=DIRECTORY_MODE, exist_ok=True)
    with open(path, "xb") as stream:
        stream.writelines(iter(lambda: source.read(BLOCK), b""))
        os.fchmod(stream.fileno(), _FILE_MODE)
