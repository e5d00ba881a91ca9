# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's own, verified copy of a release: pull it, repair it, or report what is wrong with it.

A source is a host that serves its store over mutual TLS, or a directory where a store is mounted. None is
trusted: the release must carry the site's signature, and everything below it is pinned by digest. A copy
appears under its final name only when all of it has been hashed, so whatever is there can be used; a
damaged copy loses that name before it is repaired.
"""

from __future__ import annotations

from dataclasses import replace

from ..artifacts.files import ensure_directory
from ..artifacts.hashing import sha256_hex
from ..artifacts.names import ArtifactError
from ..artifacts.release import Release, parse_release
from ..artifacts.signatures import verify_release_signature
from ..common.commands import Run
from .lock import LOCK_SECONDS, store_lock
from .model import Credentials, Fetch, Get, MakeRoom, Replica, ReplicaError, Request
from .pull import Puller
from .sources import Sources
from .state import artifact_ref, read_release, write_release


def ensure_replica(
    request: Request,
    fetch: Fetch,
    run: Run,
    credentials: Credentials,
    found: Replica,
    check_mode: bool = False,
    lock_seconds: float = LOCK_SECONDS,
    make_room: MakeRoom | None = None,
) -> Replica:
    """Make this host hold a whole, verified copy; contact no one if what was *found* already is one.

    *make_room* is asked when the file system has not enough for it, before anything is written.
    """
    _check_pinned(request, found.digest)
    if found.complete or check_mode:
        return replace(found, changed=not found.complete)
    ensure_directory(request.store)
    with store_lock(request.store, lock_seconds):
        puller = Puller(
            request.store,
            request.public_key,
            Sources(request.sources, fetch),
            run,
            credentials,
            make_room,
        )
        return _pull(request, puller)


def _check_pinned(request: Request, found: str) -> None:
    if request.release_digest and found and found != request.release_digest:
        raise ReplicaError(
            f"Release {request.model}/{request.version} has SHA-256 {found}, expected {request.release_digest}: "
            "the same version was signed twice with different contents. Publish under a new version."
        )


def _pull(request: Request, puller: Puller) -> Replica:
    sources = puller.sources
    local = True
    try:
        data, signature, release = read_release(
            request.store, request.model, request.version, request.public_key
        )
    except ArtifactError:
        local = False
        data, signature, release = _fetch_release(request, sources)
    _check_pinned(request, sha256_hex(data))
    replica = Replica(release, sha256_hex(data), "valid")
    puller = replace(puller, spare=frozenset(release.artifacts()))
    for item in release.artifacts(request.kinds, request.precisions):
        replica.artifacts.append(puller.ensure(artifact_ref(request, *item), request.full))
    if not local:
        # Last, so that a release is only ever seen on a host that holds all of it.
        write_release(request.store, release, data, signature)
    replica.changed = not local or any(item.state != "complete" for item in replica.artifacts)
    replica.source_problems = sources.problems
    return replica


def _fetch_release(request: Request, sources: Sources) -> tuple[bytes, bytes, Release]:
    path = f"releases/{request.model}/{request.version}.json"

    def read(get: Get) -> tuple[bytes, bytes, Release]:
        data, signature = get(path), get(f"{path}.sig")
        verify_release_signature(request.public_key, data, signature)
        return data, signature, parse_release(data, request.model, request.version)

    for _unused_url, found in sources.results(path, read):
        return found
    raise ReplicaError(sources.failure(path))
