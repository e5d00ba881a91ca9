# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put a directory into the store: manifest, Metalink and signature, sealed, verified, under its final name at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..artifacts.files import ensure_directory, read_small, seal_directory, sync_path, write_file
from ..artifacts.manifest import Manifest
from ..artifacts.names import MANIFEST, PIECES, SIGNATURE, ArtifactError, artifact_path, check_name
from ..artifacts.signatures import verify_model_signature
from ..artifacts.verify import verify_directory
from .model import SPACE_RESERVE

# The ioctl that shares blocks between files on XFS and btrfs: FICLONE in linux/fs.h.
_FICLONE = 0x40049409
_COPY_BLOCK = 4 * 1024 * 1024


class PublishError(Exception):
    """Something cannot be published; the message says why and what to do."""


@dataclass(frozen=True)
class ArtifactWriter:
    """Where a model's artifacts are stored, and the key that new signatures must verify against."""

    store: str
    model: str
    public_key: bytes

    def __post_init__(self) -> None:
        check_name(self.model, "model")

    def problems(self, kind: str, digest: str, full: bool = True) -> str:
        """What is wrong with an artifact that is known by its digest, empty when nothing is."""
        directory = artifact_path(self.store, kind, self.model, digest)
        _unused_manifest, differences = verify_directory(
            directory, digest, full, self.public_key, (kind, self.model)
        )
        return "; ".join(str(item) for item in differences[:5])

    def check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.store).free
        if needed + SPACE_RESERVE > free:
            raise PublishError(
                f"{self.store} has {free} bytes free, but {needed} are needed and {SPACE_RESERVE} must stay free. "
                "Remove releases that are no longer used, or give the store more space."
            )

    @contextlib.contextmanager
    def workspace(self, kind: str) -> Iterator[str]:
        """A directory beside the final place, so that a rename is enough; hidden, so that it is not served."""
        parent = os.path.join(self.store, kind, self.model)
        ensure_directory(parent)
        for name in os.listdir(parent):
            if name.startswith(".publish-"):
                # Left by a publish that was interrupted: the lock says that nobody else is at work.
                shutil.rmtree(os.path.join(parent, name))
        path = tempfile.mkdtemp(prefix=".publish-", dir=parent)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def finish(
        self,
        sign_directory: Callable[[str], None],
        directory: str,
        manifest: Manifest,
        pieces: bytes,
        name: str,
    ) -> None:
        """Complete a directory in the workspace with manifest, Metalink and signature, and give it its name."""
        write_file(os.path.join(directory, MANIFEST), manifest.to_bytes())
        write_file(os.path.join(directory, PIECES), pieces)
        self._sign(sign_directory, directory, manifest)
        seal_directory(directory)
        _unused_manifest, problems = verify_directory(
            directory, manifest.digest, True, self.public_key
        )
        if problems:
            raise PublishError(
                f"The {manifest.kind} changed while it was being published: {'; '.join(str(item) for item in problems[:5])}. "
                "Publish again when nothing writes to what it is made from."
            )
        final = artifact_path(self.store, manifest.kind, self.model, name)
        if os.path.lexists(final):
            # Damaged, else we would not be here. It leaves with the workspace.
            os.rename(final, os.path.join(os.path.dirname(directory), "damaged"))
        os.rename(directory, final)
        sync_path(os.path.dirname(final))

    def _sign(
        self, sign_directory: Callable[[str], None], directory: str, manifest: Manifest
    ) -> None:
        sign_directory(directory)
        try:
            verify_model_signature(
                self.public_key, read_small(os.path.join(directory, SIGNATURE)), manifest
            )
        except (OSError, ArtifactError) as error:
            raise PublishError(
                f"The new signature of {manifest.kind} {manifest.digest[:12]} is not acceptable: {error}. "
                "Check that the release public key belongs to the signing key in the token."
            ) from error


def clone_file(source: str, target: str) -> None:
    """Copy a file, sharing its blocks where the file system can; never by hard link.

    A hard link would make the operator's own file read-only, and a later change to it would damage a
    published artifact.
    """
    ensure_directory(os.path.dirname(target))
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as reading, open(target, "xb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
        except OSError:
            shutil.copyfileobj(reading, writing, _COPY_BLOCK)
