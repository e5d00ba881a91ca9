# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and directories of a store: read with bounds, written atomically and durably, read-only when finished."""

from __future__ import annotations

import os

from .hashing import BLOCK, open_regular
from .names import ArtifactError

DIRECTORY_MODE = 0o755  # what is stored is published to all hosts


def list_directory(directory: str, skip_hidden: bool = False) -> list[str]:
    """List all files below *directory*, sorted; refuse symbolic links and special files by name."""
    if os.path.islink(directory) or not os.path.isdir(directory):
        raise ArtifactError(f"{directory} is not a directory")
    found: list[str] = []
    pending = [""]
    while pending:
        relative = pending.pop()
        with os.scandir(os.path.join(directory, relative)) as entries:
            for entry in entries:
                if skip_hidden and entry.name.startswith("."):
                    continue
                path = os.path.join(relative, entry.name)
                if entry.is_symlink():
                    raise ArtifactError(f"{os.path.join(directory, path)} is a symbolic link")
                if entry.is_dir():
                    pending.append(path)
                elif entry.is_file():
                    found.append(path)
                else:
                    raise ArtifactError(f"{os.path.join(directory, path)} is not a regular file")
    return sorted(found)


def read_small(path: str, limit: int = 64 * 1024 * 1024) -> bytes:
    """Read a metadata file whole, refusing symbolic links and absurd sizes."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise ArtifactError(f"{path} has {size} bytes, more than the limit of {limit}")
        content: bytes = b"".join(iter(lambda: stream.read(BLOCK), b""))
        return content


def sync_path(path: str) -> None:
    """Flush a file or directory to disk: a rename is only safe after what it names is on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: str, data: bytes) -> None:
    """Write a read-only file atomically and durably."""
    temporary = f"{path}.part"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fchmod(stream.fileno(), 0o444)
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    sync_path(os.path.dirname(path) or ".")


def seal_directory(directory: str) -> None:
    """Make a finished artifact read-only and durable: files 0444, directories 0755, all flushed."""
    for root, _unused_directories, files in os.walk(directory):
        os.chmod(root, DIRECTORY_MODE)
        for name in files:
            path = os.path.join(root, name)
            os.chmod(path, 0o444)
            sync_path(path)
        sync_path(root)


def ensure_directory(path: str) -> None:
    """Create a directory 0755 whatever the umask; flush each new entry."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    ensure_directory(parent)
    os.mkdir(path)
    os.chmod(path, DIRECTORY_MODE)
    sync_path(parent)
