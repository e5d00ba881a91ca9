# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take a release out of a store: never one that is in use, and of its artifacts none that another release names.

A hidden record, ``releases/<model>/.<version>.retired``, is written before anything is removed. A retirement
that is interrupted goes on from it, and the version is neither pulled again nor published again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..artifacts.files import ensure_directory, read_small, sync_path, write_file
from ..artifacts.manifest import SCHEMA, canonical_json, parse_manifest
from ..artifacts.names import (
    MANIFEST,
    ArtifactError,
    artifact_path,
    check_digest,
    check_name,
    release_path,
    retired_path,
)
from .lock import store_lock
from .state import list_releases, read_release

_KINDS = ("checkpoint", "graph", "engine")


class RetireError(Exception):
    """A release cannot be retired; the message says why and what to do."""


@dataclass(frozen=True)
class Retirement:
    """Which release to take away, and which versions of the model are in use."""

    store: str
    model: str
    version: str
    public_key: bytes
    keep: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_name(self.model, "model")
        check_name(self.version, "version")

    @property
    def label(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass
class Retired:
    """What was removed, or in check mode what would be."""

    changed: bool = False
    removed: list[str] = field(default_factory=list)
    freed: int = 0


def retire(asked: Retirement, check_mode: bool = False) -> Retired:
    """Remove the release and what only it needs. Everything that can be refused is refused first."""
    if asked.version in asked.keep:
        raise RetireError(
            f"Release {asked.label} is in use: the versions {', '.join(sorted(set(asked.keep)))} are active, or are what a host "
            "goes back to. Only a version that is neither can be retired."
        )
    if check_mode:
        return _retire(asked, True)
    ensure_directory(asked.store)
    with store_lock(asked.store):
        return _retire(asked, False)


def _retire(asked: Retirement, check_mode: bool) -> Retired:
    done = Retired()
    record = retired_path(asked.store, asked.model, asked.version)
    artifacts = _artifacts(asked)
    needed = _needed_by_others(asked)
    recorded = os.path.lexists(record)
    if not recorded:
        done.changed = True
        if not check_mode:
            ensure_directory(os.path.dirname(record))
            write_file(record, _record(asked, artifacts))
    _take_away(asked, artifacts - needed, done, check_mode)
    return done


def evict(asked: Retirement, spare: frozenset[tuple[str, str]]) -> None:
    """Remove a release that this host alone may do without: no record is left, so it can be pulled again.

    *spare* are artifacts, by kind and digest, that something else needs which no release here names yet.
    The caller holds the store's lock and has seen to it that nobody uses the release. Raises RetireError,
    with nothing removed, if it cannot be judged.
    """
    unused = _artifacts(asked) - _needed_by_others(asked) - spare
    _take_away(asked, unused, Retired(), False, spare)


def sweep(store: str, public_key: bytes, spare: frozenset[tuple[str, str]]) -> None:
    """Remove what no release of this store names: what interrupted pulls and removals have left.

    The caller holds the store's lock. Nothing goes while a release cannot be read: it might name it.
    """
    try:
        named = {
            (model, *item)
            for model, version in list_releases(store)
            for item in read_release(store, model, version, public_key)[2].artifacts()
        }
    except ArtifactError:
        return
    for kind in _KINDS:
        root = os.path.join(store, kind)
        for model in sorted(os.listdir(root)) if os.path.isdir(root) else []:
            for name in sorted(os.listdir(os.path.join(root, model))):
                item = (kind, name.removesuffix(".part"))
                path = os.path.join(root, model, name)
                whole = kind == "engine" and item[1] == name and not name.startswith(".")
                graphs = _graphs_of_engine(path) if whole else ()
                used = (model, *item) in named or any(
                    ("graph", graph) in spare or (model, "graph", graph) in named
                    for graph in graphs
                )
                if item not in spare and not used:
                    _remove(path, Retired(), False)


def _take_away(
    asked: Retirement,
    unused: set[tuple[str, str]],
    done: Retired,
    check_mode: bool,
    spare: frozenset[tuple[str, str]] = frozenset(),
) -> None:
    release = release_path(asked.store, asked.model, asked.version)
    # The release goes first: what it names is then nobody's any more.
    for path in (release, f"{release}.sig"):
        if os.path.lexists(path):
            _remove(path, done, check_mode)
    engines = {("engine", key) for key in _engines_of(asked, unused)}
    for kind, digest in sorted(unused | engines - spare):
        for path in _traces(artifact_path(asked.store, kind, asked.model, digest)):
            _remove(path, done, check_mode)


def _record(asked: Retirement, artifacts: set[tuple[str, str]]) -> bytes:
    return canonical_json(
        {
            "schema": SCHEMA,
            "model": asked.model,
            "version": asked.version,
            "artifacts": sorted(list(item) for item in artifacts),
        }
    )


def _artifacts(asked: Retirement) -> set[tuple[str, str]]:
    """What the release consists of, by itself or by the record of an earlier try."""
    release = release_path(asked.store, asked.model, asked.version)
    record = retired_path(asked.store, asked.model, asked.version)
    found: set[tuple[str, str]] = set()
    if os.path.lexists(record):
        found |= _read_record(record)
    if not os.path.lexists(release):
        return found
    try:
        named = read_release(asked.store, asked.model, asked.version, asked.public_key)[2]
    except ArtifactError as error:
        raise RetireError(
            f"Release {asked.label} on this host is not what was signed, so it cannot be told what belongs to it: {error}. "
            "Repair this host's copy first (onprem.deepseek.model_publish, or deepseek-store-scrub.service)."
        ) from error
    return found | set(named.artifacts())


def _read_record(path: str) -> set[tuple[str, str]]:
    try:
        value = json.loads(read_small(path).decode("utf-8"))
        pairs = [(str(kind), check_digest(digest, "digest")) for kind, digest in value["artifacts"]]
    except (ValueError, KeyError, TypeError, ArtifactError) as error:
        raise RetireError(
            f"{path} is not a record of a retirement: {error}. Remove it, and retire the release again."
        ) from error
    return {(kind, digest) for kind, digest in pairs if kind in _KINDS}


def _needed_by_others(asked: Retirement) -> set[tuple[str, str]]:
    needed: set[tuple[str, str]] = set()
    for model, version in list_releases(asked.store, asked.model):
        if version == asked.version:
            continue
        try:
            named = read_release(asked.store, model, version, asked.public_key)[2]
        except ArtifactError as error:
            raise RetireError(
                f"Release {model}/{version} on this host is not what was signed, so it cannot be told which files it shares with "
                f"{asked.label}: {error}. Repair this host's copy of it first, then retire."
            ) from error
        needed |= set(named.artifacts())
    return needed


def _engines_of(asked: Retirement, unused: set[tuple[str, str]]) -> Iterator[str]:
    """Keys of the engines that were compiled from graphs that go."""
    root = os.path.join(asked.store, "engine", asked.model)
    for key in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        graphs = _graphs_of_engine(os.path.join(root, key))
        if graphs and all(("graph", graph) in unused for graph in graphs):
            yield key


def _graphs_of_engine(directory: str) -> Sequence[str]:
    """Digests of the graphs that an engine was compiled from; none if its manifest cannot be read."""
    try:
        return parse_manifest(read_small(os.path.join(directory, MANIFEST))).parents
    except (OSError, ArtifactError):
        return ()


def _traces(directory: str) -> list[str]:
    """An artifact, and what an interrupted pull or retirement has left of it."""
    parent, name = os.path.split(directory)
    found = [directory, f"{directory}.part", os.path.join(parent, f".retired-{name}")]
    return [path for path in found if os.path.lexists(path)]


def _size(path: str) -> int:
    """Bytes on disk."""
    total = os.lstat(path).st_blocks * 512
    if os.path.isdir(path) and not os.path.islink(path):
        total += sum(_size(os.path.join(path, name)) for name in os.listdir(path))
    return total


def _remove(path: str, done: Retired, check_mode: bool) -> None:
    done.changed = True
    done.removed.append(path)
    done.freed += _size(path)
    if check_mode:
        return
    parent, name = os.path.split(path)
    if not os.path.isdir(path) or os.path.islink(path):
        os.unlink(path)
    else:
        # Its name goes at once: a directory with half of its files must never be found under it.
        hidden = path if name.startswith(".retired-") else os.path.join(parent, f".retired-{name}")
        if hidden != path:
            if os.path.lexists(hidden):
                shutil.rmtree(hidden)
            os.rename(path, hidden)
            sync_path(parent)
        shutil.rmtree(hidden)
    sync_path(parent)
