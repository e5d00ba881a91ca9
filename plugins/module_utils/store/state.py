# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host holds of a release, judged by what is on its own disk."""

from __future__ import annotations

import os

from ..artifacts.files import ensure_directory, read_small, write_file
from ..artifacts.hashing import sha256_hex
from ..artifacts.manifest import Manifest, parse_manifest
from ..artifacts.names import MANIFEST, ArtifactError, release_path
from ..artifacts.release import Release, parse_release
from ..artifacts.signatures import verify_release_signature
from ..artifacts.verify import Difference, verify_directory
from .model import METADATA_LIMIT, ArtifactRef, ArtifactState, Get, Replica, Request


def read_release(
    store: str, model: str, version: str, public_key: bytes
) -> tuple[bytes, bytes, Release]:
    """Return this host's copy of a release if its signature verifies; else raise with the reason."""
    path = release_path(store, model, version)
    try:
        data = read_small(path, METADATA_LIMIT)
        signature = read_small(f"{path}.sig", METADATA_LIMIT)
    except OSError as error:
        raise ArtifactError(f"{error.filename}: {error.strerror}") from error
    verify_release_signature(public_key, data, signature)
    return data, signature, parse_release(data, model, version)


def artifact_ref(request: Request, kind: str, digest: str) -> ArtifactRef:
    """An artifact that a release names: its manifest is known by its digest."""
    expect = (kind, request.model)

    def verify(directory: str, full: bool) -> tuple[Manifest | None, list[Difference]]:
        return verify_directory(directory, digest, full, request.public_key, expect)

    def fetch_manifest(get: Get) -> bytes:
        data = get(f"{kind}/{request.model}/{digest}/{MANIFEST}")
        check_manifest(data, digest, expect)
        return data

    return ArtifactRef(kind, request.model, digest, verify, fetch_manifest)


def artifact_state(store: str, ref: ArtifactRef, full: bool) -> ArtifactState:
    """Verify one artifact on this host."""
    path = os.path.join(store, ref.path)
    if not os.path.lexists(path):
        missing = Difference(".", "missing", "this host has no copy")
        return ArtifactState(ref.kind, ref.digest, path, "missing", problems=(missing,))
    manifest, problems = ref.verify(path, full)
    state = "damaged" if problems else "complete" if full else "present"
    size, files = (manifest.size, len(manifest.files)) if manifest else (0, 0)
    return ArtifactState(ref.kind, ref.digest, path, state, size, files, problems=tuple(problems))


def inspect_replica(request: Request) -> Replica:
    """What this host holds of a release, judged without asking anyone else."""
    replica = Replica()
    try:
        data, _unused_signature, replica.release = read_release(
            request.store, request.model, request.version, request.public_key
        )
    except ArtifactError as error:
        replica.problem = str(error)
        if os.path.lexists(release_path(request.store, request.model, request.version)):
            replica.signature = "invalid"
        return replica
    replica.signature = "valid"
    replica.digest = sha256_hex(data)
    replica.artifacts = [
        artifact_state(request.store, artifact_ref(request, *item), request.full)
        for item in replica.release.artifacts(request.kinds, request.precisions)
    ]
    return replica


def list_releases(
    store: str, model: str | None = None, version: str | None = None
) -> list[tuple[str, str]]:
    """(model, version) of each release file on this host."""
    found: list[tuple[str, str]] = []
    root = os.path.join(store, "releases")
    models = [model] if model else sorted(os.listdir(root)) if os.path.isdir(root) else []
    for name in models:
        directory = os.path.join(root, name)
        files = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        versions = [file[: -len(".json")] for file in files if file.endswith(".json")]
        found.extend((name, item) for item in versions if version in (None, item))
    return found


def write_release(store: str, release: Release, data: bytes, signature: bytes) -> None:
    path = release_path(store, release.model, release.version)
    ensure_directory(os.path.dirname(path))
    write_file(f"{path}.sig", signature)
    write_file(path, data)


def read_manifest(directory: str, digest: str) -> Manifest:
    """The manifest of an artifact, if it is the one that *digest* names."""
    return check_manifest(read_small(os.path.join(directory, MANIFEST)), digest)


def check_manifest(data: bytes, digest: str, expect: tuple[str, str] | None = None) -> Manifest:
    """Parse a manifest after checking that it is the one that *digest* names."""
    if sha256_hex(data) != digest:
        raise ArtifactError(f"{MANIFEST} has SHA-256 {sha256_hex(data)}, expected {digest}")
    manifest = parse_manifest(data)
    if expect is not None and (manifest.kind, manifest.name) != expect:
        raise ArtifactError(
            f"{MANIFEST} is of a {manifest.kind} of {manifest.name}, expected a {expect[0]} of {expect[1]}"
        )
    return manifest
