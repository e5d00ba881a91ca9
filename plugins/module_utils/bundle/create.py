# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a bundle of directories; the same directories give the same bytes, and what is on the medium already is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..artifacts.build import describe
from ..artifacts.files import list_directory, read_small, write_file
from ..artifacts.hashing import FileHash, PieceHasher
from ..artifacts.manifest import Manifest, parse_manifest
from ..artifacts.names import MANIFEST, PIECES, ArtifactError
from .archives import PartWriter, pack
from .layout import (
    KIND,
    MANIFEST_SIGNATURE,
    METADATA,
    NAME,
    SBOM,
    VERIFIER,
    Content,
    Description,
    content_of_part,
    describe_bundle,
)

_SMALLEST_PART = 1024 * 1024
# What the archives have beside the files, a header and padding for each file.
_OVERHEAD = 2048


@dataclass(frozen=True)
class Source:
    """A directory that becomes a content."""

    kind: str
    directory: str
    provides: tuple[str, ...] = ()
    variant: str = ""


@dataclass(frozen=True)
class Plan:
    """What a bundle is to be made of, and where."""

    directory: str
    sources: Mapping[str, Source]
    small: Mapping[str, bytes]  # files that are no archives: the bill of materials, the verifier
    collection: str
    architecture: str
    epoch: int
    part_size: int
    today: int  # YYYYMMDD
    serial: int = 0  # 0: that of the bundle there, or the next one where something changed
    tools: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Made:
    """The bundle, and which of its files were written or removed."""

    manifest: Manifest
    changed: list[str]
    serial: int


def create(plan: Plan, write: bool = True) -> Made:
    """Write parts and manifest; the signature is made by who holds the key, and removed where it is of another manifest.

    Raises ArtifactError with what is wrong, before anything is written: parts too small, foreign files, no room.
    """
    _refuse(plan, write)
    before = _manifest_there(plan.directory)
    files: dict[str, FileHash] = {}
    changed: list[str] = []
    contents: dict[str, Content] = {}
    if write:
        os.makedirs(plan.directory, exist_ok=True)
    for name, source in sorted(plan.sources.items()):
        writer = PartWriter(plan.directory, name, plan.part_size, write)
        size, count = pack(source.directory, writer)
        files.update(writer.parts)
        changed += writer.changed
        parts = tuple(writer.parts)
        contents[name] = Content(source.kind, parts, size, count, source.provides, source.variant)
    for name, data in plan.small.items():
        hasher = PieceHasher()
        hasher.update(data)
        files[name] = hasher.finish()
        changed += _write(plan.directory, name, data, write)
    description = Description(
        0, plan.epoch, plan.collection, plan.architecture, dict(sorted(contents.items()))
    )
    manifest, pieces, serial = _numbered(plan, description, files, before)
    changed += _write(plan.directory, PIECES, pieces, write)
    changed += _write(plan.directory, MANIFEST, manifest.to_bytes(), write)
    changed += _remove(plan.directory, {*files, *METADATA}, MANIFEST in changed, write)
    return Made(manifest, sorted(set(changed)), serial)


def _numbered(
    plan: Plan, description: Description, files: Mapping[str, FileHash], before: Manifest | None
) -> tuple[Manifest, bytes, int]:
    """The manifest, with the serial of the bundle there if it is the same, or one that is larger than any before."""

    def numbered(serial: int) -> tuple[Manifest, bytes, int]:
        parameters = replace(description, serial=serial).as_dict()
        made, pieces = describe(KIND, NAME, files, tools=plan.tools, parameters=parameters)
        describe_bundle(made)
        return made, pieces, serial

    if plan.serial:
        return numbered(plan.serial)
    last = describe_bundle(before).serial if before is not None else 0
    same = numbered(last)
    if before is not None and same[0].digest == before.digest:
        return same
    return numbered(max(last + 1, plan.today * 100))


def _refuse(plan: Plan, write: bool) -> None:
    if plan.part_size < _SMALLEST_PART:
        raise ArtifactError(f"parts of {plan.part_size} bytes are too small: take 1 MiB or more")
    there = os.listdir(plan.directory) if os.path.isdir(plan.directory) else []
    ours = {*METADATA, SBOM, VERIFIER}
    # A write that was interrupted left the other name.
    ours |= {f"{name}.part" for name in ours}
    foreign = sorted(name for name in there if name not in ours and not content_of_part(name))
    if foreign:
        raise ArtifactError(
            f"{plan.directory} has {', '.join(foreign[:5])}, which is of no bundle: take an empty directory"
        )
    if write:
        _refuse_small_disk(plan, there)


def _refuse_small_disk(plan: Plan, there: list[str]) -> None:
    needed = sum(len(data) for data in plan.small.values())
    for source in plan.sources.values():
        for path in list_directory(source.directory):
            needed += os.lstat(os.path.join(source.directory, path)).st_size + _OVERHEAD
    kept = sum(os.lstat(os.path.join(plan.directory, name)).st_size for name in there)
    free = free_bytes(plan.directory)
    if needed > free + kept:
        raise ArtifactError(
            f"{plan.directory} has room for {free + kept} bytes, and the bundle takes {needed}: take another disk"
        )


def free_bytes(path: str) -> int:
    """Room on the file system where a path is, or is to be."""
    while not os.path.isdir(path):
        path = os.path.dirname(os.path.abspath(path))
    return shutil.disk_usage(path).free


def _manifest_there(directory: str) -> Manifest | None:
    try:
        manifest = parse_manifest(read_small(os.path.join(directory, MANIFEST)))
        describe_bundle(manifest)
    except (OSError, ArtifactError):
        return None
    return manifest


def _write(directory: str, name: str, data: bytes, write: bool) -> list[str]:
    path = os.path.join(directory, name)
    try:
        if read_small(path) == data:
            return []
    except (OSError, ArtifactError):
        pass
    if write:
        write_file(path, data)
    return [name]


def _remove(directory: str, wanted: set[str], unsigned: bool, write: bool) -> list[str]:
    """Parts of an earlier bundle, and its signature."""
    there = os.listdir(directory) if os.path.isdir(directory) else []
    gone = [
        name for name in there if name not in wanted or (unsigned and name == MANIFEST_SIGNATURE)
    ]
    if write:
        for name in gone:
            os.unlink(os.path.join(directory, name))
    return gone
