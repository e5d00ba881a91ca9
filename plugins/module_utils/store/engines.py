# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines in the store: a graph compiled for one kind of GPU, found by the key of what it was compiled from.

``<store>/engine/<model>/<key>/``, where the key is the SHA-256 of the ``key.json`` in it. No release names
an engine, so its own signature is what it is trusted by: model.sig vouches for the manifest, which pins
every file, key.json among them, and names the graph as its only parent. A plan is executable code:
nothing here opens it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..artifacts.build import describe
from ..artifacts.engines import FILES
from ..artifacts.files import ensure_directory, list_directory, read_small
from ..artifacts.hashing import hash_files, sha256_hex
from ..artifacts.manifest import Manifest, canonical_json, parse_manifest
from ..artifacts.names import (
    MANIFEST,
    SIGNATURE,
    ArtifactError,
    artifact_path,
    check_digest,
    check_name,
)
from ..artifacts.signatures import verify_model_signature
from ..artifacts.verify import Difference, verify_directory
from ..common.commands import Run
from .lock import LOCK_SECONDS, store_lock
from .model import ArtifactRef, ArtifactState, Credentials, Fetch, Get, MakeRoom, NoSourceError
from .pull import Puller, repairable
from .sources import Sources
from .state import artifact_state, read_manifest
from .writer import ArtifactWriter, PublishError, clone_file

KIND = "engine"
KEY_FILE = "key.json"
GOLDEN_FILE = "golden.json"


# --- which engine, and whether a directory is that one -----------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """One engine: whose, by which key, and of which graph."""

    model: str
    key: str
    graph: str
    public_key: bytes

    def __post_init__(self) -> None:
        check_name(self.model, "model")
        check_digest(self.key, "key")
        check_digest(self.graph, "graph")

    @property
    def expect(self) -> tuple[str, str]:
        return (KIND, self.model)

    def verify(self, directory: str, full: bool = True) -> tuple[Manifest | None, list[Difference]]:
        """Every way in which a directory is not this engine. Its digest is what its own manifest has: the signature vouches for that."""
        try:
            digest = sha256_hex(read_small(os.path.join(directory, MANIFEST)))
        except (OSError, ArtifactError):
            digest = ""
        manifest, problems = verify_directory(directory, digest, full, self.public_key, self.expect)
        if manifest is not None:
            problems.extend(self.differences(manifest))
        return manifest, problems

    def differences(self, manifest: Manifest) -> list[Difference]:
        """How a manifest describes another engine than this one."""
        found = []
        if manifest.parents != (self.graph,):
            made_from = ", ".join(manifest.parents) or "nothing"
            detail = f"compiled from {made_from}, expected from graph {self.graph}"
            found.append(Difference(MANIFEST, "parent", detail))
        entry = manifest.files.get(KEY_FILE)
        if entry is None:
            found.append(Difference(KEY_FILE, "missing", f"not listed in {MANIFEST}"))
        elif entry.sha256 != self.key:
            detail = f"it hashes to {entry.sha256}, expected {self.key}"
            found.append(Difference(KEY_FILE, "key", detail))
        return found

    @property
    def ref(self) -> ArtifactRef:
        """The engine as something that a host is to hold."""
        path = f"{KIND}/{self.model}/{self.key}"

        def fetch_manifest(get: Get) -> bytes:
            data = get(f"{path}/{MANIFEST}")
            manifest = parse_manifest(data)
            if (manifest.kind, manifest.name) != self.expect:
                raise ArtifactError(
                    f"{MANIFEST} is of a {manifest.kind} of {manifest.name}, expected a {KIND} of {self.model}"
                )
            if self.differences(manifest):
                raise ArtifactError("; ".join(str(item) for item in self.differences(manifest)))
            if sha256_hex(data) != manifest.digest:
                raise ArtifactError(f"{MANIFEST} is not written as this collection writes it")
            verify_model_signature(self.public_key, get(f"{path}/{SIGNATURE}"), manifest)
            return data

        return ArtifactRef(KIND, self.model, self.key, self.verify, fetch_manifest)


# --- holding a copy -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """Which engine to hold, and where it may come from."""

    store: str
    wanted: Wanted
    sources: Sequence[str] = ()
    full: bool = True


@dataclass(frozen=True)
class Held:
    """An engine on this host, as left; in check mode, as a real run would leave it."""

    copy: ArtifactState
    state: str
    before: str
    reason: str = ""
    source_problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        return self.state in ("pulled", "repaired")

    @property
    def found(self) -> bool:
        return self.state != "absent"


def ensure_engine(
    request: Request,
    fetch: Fetch,
    run: Run,
    credentials: Credentials,
    check_mode: bool = False,
    lock_seconds: float = LOCK_SECONDS,
    make_room: MakeRoom | None = None,
) -> Held:
    """Have a whole, verified copy if this host or any source has one. Contacts no one if this host has.

    *make_room* is asked when the file system has not enough for it, before anything is written.
    """
    ref = request.wanted.ref
    found = artifact_state(request.store, ref, request.full)
    if not found.problems:
        return Held(found, "present", "present")
    before = "absent" if found.state == "missing" else "damaged"
    reason = "; ".join(str(problem) for problem in found.problems[:5])
    sources = Sources(request.sources, fetch)
    spare = frozenset({(KIND, request.wanted.key), ("graph", request.wanted.graph)})
    puller = Puller(
        request.store, request.wanted.public_key, sources, run, credentials, make_room, spare
    )
    try:
        # Asked for here, so that nothing is made where there is nothing to pull. Asking changes nothing: check mode asks too.
        if not repairable(found):
            puller.agreed_manifest(ref)
        if not check_mode:
            ensure_directory(request.store)
            with store_lock(request.store, lock_seconds):
                found = puller.ensure(ref, request.full)
    except NoSourceError:
        return Held(found, "absent", before, reason, sources.problems)
    state = "pulled" if before == "absent" else "repaired"
    return Held(found, state, before, reason, sources.problems)


def missing_message(request: Request, held: Held) -> str:
    """Why an engine that is required is not there."""
    wanted = request.wanted
    said = "; ".join(f"{url}: {reason}" for url, reason in sorted(held.source_problems.items()))
    return (
        f"This host has no engine {wanted.key[:12]} of {wanted.model} that may be used ({held.reason}), and no source has it: "
        f"{said or 'no sources are configured'}. Build it with role model_engine, or check the storage hosts."
    )


# --- storing what was built -----------------------------------------------------------------------


@dataclass(frozen=True)
class Build:
    """A directory that a build has left, and where the engine goes."""

    writer: ArtifactWriter
    directory: str
    graph: str
    full: bool = True

    def __post_init__(self) -> None:
        check_digest(self.graph, "graph")


@dataclass(frozen=True)
class Stored:
    """What was done with a build, or in check mode what would be."""

    changed: bool
    key: str
    path: str
    reason: str = ""


def store_engine(
    build: Build, sign_directory: Callable[[str], None], check_mode: bool = False
) -> Stored:
    """Sign and store a built engine, unless a good one of the same key is there: two builds of one key need not have the same bytes."""
    writer = build.writer
    key, document = _read_key(build)
    wanted = Wanted(writer.model, key, build.graph, writer.public_key)
    path = artifact_path(writer.store, KIND, writer.model, key)
    found = artifact_state(writer.store, wanted.ref, build.full)
    if not found.problems:
        return Stored(False, key, path)
    reason = "; ".join(str(problem) for problem in found.problems[:5])
    graph = _read_graph(build)
    _check_key(build, document, graph)
    if not check_mode:
        ensure_directory(writer.store)
        with store_lock(writer.store):
            _write(build, sign_directory, wanted, document, graph)
    return Stored(True, key, path, reason)


def _write(
    build: Build,
    sign_directory: Callable[[str], None],
    wanted: Wanted,
    document: Mapping[str, Any],
    graph: Manifest,
) -> None:
    writer = build.writer
    files = hash_files(build.directory, list_directory(build.directory))
    flavour = document["tensorrt"]
    manifest, pieces = describe(
        KIND,
        writer.model,
        files,
        graph.source,
        graph.license,
        {str(flavour["flavour"]): flavour.get("version")},
        {},
        (build.graph,),
    )
    writer.check_space(manifest.size)
    with writer.workspace(KIND) as work:
        directory = os.path.join(work, wanted.key)
        for path in manifest.files:
            clone_file(os.path.join(build.directory, path), os.path.join(directory, path))
        wrong = wanted.differences(manifest)
        if wrong:
            raise PublishError(
                f"{build.directory} changed while it was being stored: {wrong[0]}. Build the engine again."
            )
        writer.finish(sign_directory, directory, manifest, pieces, wanted.key)


def _read_key(build: Build) -> tuple[str, dict[str, Any]]:
    """The key, which is the hash of key.json, and what that says."""
    path = os.path.join(build.directory, KEY_FILE)
    try:
        data = read_small(path)
        document = json.loads(data.decode("utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(
            f"{path} cannot be read: {error}. Name a directory that a build has left."
        ) from error
    if not isinstance(document, dict) or canonical_json(document) != data:
        raise PublishError(
            f"{path} is not canonical JSON (sorted, indented by two, a newline at the end). Build the engine again."
        )
    return sha256_hex(data), document


def _read_graph(build: Build) -> Manifest:
    """The manifest of the graph in this store, by its digest."""
    writer = build.writer
    directory = artifact_path(writer.store, "graph", writer.model, build.graph)
    try:
        return read_manifest(directory, build.graph)
    except (OSError, ArtifactError) as error:
        raise PublishError(
            f"The graph {build.graph[:12]} that the engine was compiled from is not in the store: {error}. "
            "Publish the release on this host first, or pull it with model_replica."
        ) from error


def _check_key(build: Build, document: Mapping[str, Any], graph: Manifest) -> None:
    """Refuse a build that is not of this graph, or not whole."""
    path = os.path.join(build.directory, KEY_FILE)
    hashes = document.get("graph")
    if not isinstance(hashes, dict) or not hashes:
        raise PublishError(f"{path} names no files of a graph. Build the engine again.")
    for name, digest in sorted(hashes.items()):
        entry = graph.files.get(name)
        if entry is None or entry.sha256 != digest:
            raise PublishError(
                f"{path} is of another graph: {name} is {digest} there and {entry.sha256 if entry else 'missing'} in graph "
                f"{build.graph[:12]}. Name the graph that the engine was compiled from, or build it again."
            )
    flavour = document.get("tensorrt")
    name = flavour.get("flavour") if isinstance(flavour, dict) else None
    file = FILES.get(str(name))
    if file is None:
        raise PublishError(
            f"{path} names the flavour {name!r}; known are {', '.join(FILES)}. Build the engine again."
        )
    for path in (os.path.join(build.directory, one) for one in (file, GOLDEN_FILE)):
        if not os.path.isfile(path):
            raise PublishError(f"{path} is missing. Build the engine again.")
