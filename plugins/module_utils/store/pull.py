# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pull one artifact into a store, or repair it; it gets its final name only when all of it is verified."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..artifacts.files import ensure_directory, seal_directory, sync_path, write_file
from ..artifacts.hashing import FileHash, hash_file
from ..artifacts.manifest import Manifest, parse_manifest
from ..artifacts.metalink import check_metalink
from ..artifacts.names import MANIFEST, PIECES, RESERVED, SIGNATURE, ArtifactError
from ..artifacts.signatures import verify_model_signature
from ..artifacts.verify import Difference
from ..common.commands import Run
from .aria2 import download
from .model import (
    SPACE_RESERVE,
    ArtifactRef,
    ArtifactState,
    Credentials,
    MakeRoom,
    NoSourceError,
    ReplicaError,
)
from .mounted import copy_mounted, mounted_directory
from .sources import Sources
from .state import artifact_state

# Differences that need no bytes from elsewhere.
LOCAL_KINDS = ("mode", "unexpected")


@dataclass(frozen=True)
class Puller:
    """How artifacts come into a store: from where, with what, and whose signatures count."""

    store: str
    public_key: bytes
    sources: Sources
    run: Run
    credentials: Credentials
    make_room: MakeRoom | None = None
    spare: frozenset[tuple[str, str]] = frozenset()

    def ensure(self, ref: ArtifactRef, full: bool = True) -> ArtifactState:
        """Ensure a complete, verified copy: the one on this host, repaired if that is enough, or a download."""
        found = artifact_state(self.store, ref, full)
        if not found.problems:
            return found
        manifest = ref.verify(found.path, False)[0] if repairable(found) else None
        if manifest is not None:
            _tidy(found.path, manifest)
            seal_directory(found.path)
            fetched = 0
        else:
            fetched = self._download(ref)
        left = artifact_state(self.store, ref, full)
        if left.problems:
            raise ReplicaError(f"{left.path} is still damaged after repair: {_list(left.problems)}")
        state = "pulled" if found.state == "missing" else "repaired"
        return replace(left, state=state, fetched=fetched, repaired=found.problems)

    def agreed_manifest(self, ref: ArtifactRef) -> tuple[bytes, list[str]]:
        """The manifest that the first good source has, and all sources that have the same."""
        path = f"{ref.path}/{MANIFEST}"
        offers = list(self.sources.results(path, ref.fetch_manifest))
        if not offers:
            raise NoSourceError(self.sources.failure(path))
        first = offers[0][1]
        return first, [url for url, data in offers if data == first]

    def _download(self, ref: ArtifactRef) -> int:
        """Download what of an artifact is missing or wrong, verify all of it, and give it its final name."""
        path = ref.path
        directory = os.path.join(self.store, path)
        data, urls = self.agreed_manifest(ref)
        manifest = parse_manifest(data)
        pieces = self.sources.first(f"{path}/{PIECES}", lambda data: check_metalink(data, manifest))
        signature = self.sources.first(
            f"{path}/{SIGNATURE}",
            lambda data: verify_model_signature(self.public_key, data, manifest),
        )
        part = f"{directory}.part"
        start = directory if os.path.isdir(directory) and not os.path.islink(directory) else part
        wanted = _wanted(start, check_metalink(pieces, manifest))
        self._have_space(start, wanted)
        _withdraw(directory, part)
        _tidy(part, manifest)
        self._fetch(part, wanted, urls, path)
        for name, content in ((MANIFEST, data), (PIECES, pieces), (SIGNATURE, signature)):
            write_file(os.path.join(part, name), content)
        seal_directory(part)
        _unused_manifest, problems = ref.verify(part, True)
        if problems:
            raise ReplicaError(
                f"{part} does not verify after the download and is left for inspection: {_list(problems)}"
            )
        os.rename(part, directory)
        sync_path(os.path.dirname(directory))
        return sum(item.size for item in wanted.values())

    def _have_space(self, directory: str, wanted: Mapping[str, FileHash]) -> None:
        """Refuse before writing, not when the disk is full."""
        needed = _needed(directory, wanted)
        if not needed:
            return
        lacking = needed + SPACE_RESERVE - shutil.disk_usage(self.store).free
        if lacking > 0 and self.make_room is not None:
            self.make_room(lacking, self.spare)
        free = shutil.disk_usage(self.store).free
        if needed + SPACE_RESERVE > free:
            raise ReplicaError(
                f"{self.store} has {free} bytes free, but {needed} are needed and {SPACE_RESERVE} must stay free. "
                "Remove releases that are no longer used, or give the store more space."
            )

    def _fetch(
        self, part: str, wanted: Mapping[str, FileHash], urls: Sequence[str], path: str
    ) -> None:
        directories = [
            directory for directory in map(mounted_directory, urls) if directory is not None
        ]
        left = copy_mounted(
            part, wanted, [os.path.join(directory, path) for directory in directories]
        )
        hosts = [f"{url}/{path}" for url in urls if mounted_directory(url) is None]
        if left and not hosts:
            raise ReplicaError(
                f"Not as they were signed in {', '.join(directories)}: {', '.join(sorted(left)[:5])}. Nothing of it is used. "
                "Repair the files there, or add a storage host to the sources."
            )
        if left:
            download(part, left, hosts, self.run, self.credentials)


def repairable(found: ArtifactState) -> bool:
    """Whether nothing is wrong but what needs no bytes from elsewhere."""
    return found.state == "damaged" and all(item.kind in LOCAL_KINDS for item in found.problems)


def _list(problems: Sequence[Difference]) -> str:
    shown = "; ".join(str(problem) for problem in problems[:5])
    return shown + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")


def _wanted(directory: str, files: Mapping[str, FileHash]) -> dict[str, FileHash]:
    """Files that are not yet here, whole and right."""
    wanted: dict[str, FileHash] = {}
    for path, expected in files.items():
        full = os.path.join(directory, path)
        try:
            right = (
                not os.path.lexists(f"{full}.aria2")
                and os.lstat(full).st_size == expected.size
                and hash_file(full) == expected
            )
        except (OSError, ArtifactError):
            right = False
        if not right:
            wanted[path] = expected
    return wanted


def _needed(directory: str, wanted: Mapping[str, FileHash]) -> int:
    """Bytes that these files will take beyond what of them is here."""
    needed = 0
    for path, expected in wanted.items():
        try:
            here = os.lstat(os.path.join(directory, path)).st_blocks * 512
        except OSError:
            here = 0
        needed += max(0, expected.size - here)
    return needed


def _withdraw(directory: str, part: str) -> None:
    """Make the working directory. What is wrong loses its final name first, so that nobody uses it."""
    ensure_directory(os.path.dirname(directory))
    for path in (directory, part):
        if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
            os.unlink(path)
    if os.path.isdir(directory):
        if os.path.isdir(part):
            shutil.rmtree(part)
        os.rename(directory, part)
        sync_path(os.path.dirname(directory))
    ensure_directory(part)


def _tidy(directory: str, manifest: Manifest) -> None:
    """Remove what does not belong into an artifact; keep downloads that can be resumed."""
    wanted = set(manifest.files) | set(RESERVED)
    wanted |= {f"{path}.aria2" for path in manifest.files}
    parents = {os.path.dirname(path) for path in manifest.files}
    for root, directories, files in os.walk(directory, topdown=False):
        for name in files + directories:
            full = os.path.join(root, name)
            path = os.path.relpath(full, directory)
            if os.path.islink(full) or (
                name in files and (path not in wanted or not os.path.isfile(full))
            ):
                os.unlink(full)
            elif name in directories and path in wanted:
                shutil.rmtree(full)
            elif name in directories and path not in parents and not os.listdir(full):
                os.rmdir(full)
