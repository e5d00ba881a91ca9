# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's own, verified copy of artifacts: pull them, repair them, or say what is wrong with them.

A source is a host that serves its store over mutual TLS, or a folder where a store is mounted. None is
trusted: the release must carry the site's signature, and everything below it is pinned by digest. A copy
appears under its final name only when all of it has been hashed, so whatever is there can be used; a
damaged copy loses that name before it is repaired.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import http.client
import os
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from ..artifacts.files import ensure_directory, read_small, seal_directory, sync_path, write_file
from ..artifacts.hashing import (
    BLOCK,
    FileHash,
    PieceHasher,
    hash_file,
    open_regular,
    sha256_hex,
    worker_count,
)
from ..artifacts.manifest import Manifest, parse_manifest
from ..artifacts.metalink import check_metalink, expand_metalink
from ..artifacts.names import (
    MANIFEST,
    PIECES,
    RELEASE_KINDS,
    RESERVED,
    SIGNATURE,
    ArtifactError,
    check_digest,
    check_name,
    release_path,
)
from ..artifacts.release import Release, parse_release
from ..artifacts.signatures import verify_model_signature, verify_release_signature
from ..artifacts.verify import Difference, verify_directory

# Exit status of aria2c, as in section EXIT STATUS of its manual.
_ARIA2_NO_SPACE = 9
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
METADATA_LIMIT = 64 * 1024 * 1024
# One aria2c has one thread, which decrypts and hashes about 200 MiB/s: so several share the files.
FILES_AT_A_TIME = 4
# Differences that need no bytes from elsewhere.
LOCAL_KINDS = ("mode", "unexpected")
# Space that must stay free after a pull: a full file system breaks logs and services as well.
SPACE_RESERVE = 64 * 1024 * 1024
# Seconds to wait for another publish or pull in the same store: either can move a terabyte.
LOCK_SECONDS = 4 * 3600.0


class ReplicaError(Exception):
    """The release could not be brought onto this host; the message says why and what to do."""


class NoSourceError(ReplicaError):
    """No source has what is asked for."""


class StoreBusyError(ReplicaError):
    """Another publish or pull is at work in the store."""


class SourceError(Exception):
    """One source did not give one file. With *dead*, it will not give any other either."""

    def __init__(self, reason: str, dead: bool = False) -> None:
        super().__init__(reason)
        self.dead = dead


@dataclass(frozen=True)
class Completed:
    """Outcome of a command."""

    rc: int
    stdout: str
    stderr: str


T = TypeVar("T")
Run = Callable[[Sequence[str]], Completed]
Fetch = Callable[[str, int], bytes]
Get = Callable[[str], bytes]
# Gets the bytes that are missing and the artifacts (kind, digest) that must stay, and frees what it can.
MakeRoom = Callable[[int, frozenset[tuple[str, str]]], None]


@dataclass(frozen=True)
class Credentials:
    """Files for mutual TLS."""

    ca: str
    certificate: str
    private_key: str


@dataclass(frozen=True)
class Request:
    """Which release to hold, and where it may come from."""

    store: str
    model: str
    version: str
    public_key: bytes
    sources: Sequence[str] = ()
    kinds: Sequence[str] = RELEASE_KINDS
    precisions: Sequence[str] = ()
    full: bool = True
    release_digest: str | None = None

    def __post_init__(self) -> None:
        check_name(self.model, "model")
        check_name(self.version, "version")
        if self.release_digest is not None:
            check_digest(self.release_digest, "release_digest")


@dataclass(frozen=True)
class Holding:
    """An artifact that a host is to hold: how to judge a copy, and which offer of a source to accept.

    ``digest`` names its folder: the digest of its manifest, or an engine's key. ``judge`` gets a folder
    and whether to hash every byte; ``offer`` gives a source's manifest or raises ArtifactError.
    """

    kind: str
    model: str
    digest: str
    judge: Callable[[str, bool], tuple[Manifest | None, list[Difference]]]
    offer: Callable[[Get], bytes]

    @property
    def path(self) -> str:
        """Where it is below a store, here and on a source."""
        return f"{self.kind}/{self.model}/{self.digest}"


@dataclass(frozen=True)
class ArtifactState:
    """One artifact on this host, as found and, after a pull, as left."""

    kind: str
    digest: str
    path: str
    state: str
    size: int = 0
    files: int = 0
    fetched: int = 0
    problems: Sequence[Difference] = ()
    repaired: Sequence[Difference] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "digest": self.digest,
            "path": self.path,
            "state": self.state,
            "size": self.size,
            "files": self.files,
            "fetched": self.fetched,
            "problems": [problem.as_dict() for problem in self.problems],
            "repaired": [problem.as_dict() for problem in self.repaired],
        }


@dataclass
class Replica:
    """A release on this host."""

    release: Release | None = None
    digest: str = ""
    signature: str = "missing"
    problem: str = ""
    changed: bool = False
    artifacts: list[ArtifactState] = field(default_factory=list)
    source_problems: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.signature == "valid" and all(not item.problems for item in self.artifacts)

    def as_dict(self, request: Request) -> dict[str, Any]:
        problems = [self.problem] if self.problem else []
        for item in self.artifacts:
            problems.extend(
                f"{item.kind} {item.digest[:12]}: {problem}" for problem in item.problems
            )
        return {
            "model": request.model,
            "version": request.version,
            "path": release_path(request.store, request.model, request.version),
            "sha256": self.digest,
            "signature": self.signature,
            "graphs": dict(self.release.graphs) if self.release else {},
            "checkpoint": self.release.checkpoint if self.release else "",
            "artifacts": [item.as_dict() for item in self.artifacts],
            "size": sum(item.size for item in self.artifacts),
            "verified": self.complete and request.full,
            "problems": problems,
        }


# --- local state ----------------------------------------------------------------------------------


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


def holding_of(request: Request, kind: str, digest: str) -> Holding:
    """An artifact that a release names: its manifest is known by its digest."""
    expect = (kind, request.model)

    def judge(folder: str, full: bool) -> tuple[Manifest | None, list[Difference]]:
        return verify_directory(folder, digest, full, request.public_key, expect)

    def offer(get: Get) -> bytes:
        data = get(f"{kind}/{request.model}/{digest}/{MANIFEST}")
        check_manifest(data, digest, expect)
        return data

    return Holding(kind, request.model, digest, judge, offer)


def artifact_state(store: str, holding: Holding, full: bool) -> ArtifactState:
    """Verify one artifact on this host."""
    path = os.path.join(store, holding.path)
    if not os.path.lexists(path):
        missing = Difference(".", "missing", "this host has no copy")
        return ArtifactState(holding.kind, holding.digest, path, "missing", problems=(missing,))
    manifest, problems = holding.judge(path, full)
    state = "damaged" if problems else "complete" if full else "present"
    size, files = (manifest.size, len(manifest.files)) if manifest else (0, 0)
    return ArtifactState(
        holding.kind, holding.digest, path, state, size, files, problems=tuple(problems)
    )


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
        artifact_state(request.store, holding_of(request, *item), request.full)
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
        folder = os.path.join(root, name)
        files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        versions = [file[: -len(".json")] for file in files if file.endswith(".json")]
        found.extend((name, item) for item in versions if version in (None, item))
    return found


# --- sources --------------------------------------------------------------------------------------


def https_fetcher(credentials: Credentials, timeout: float = 5.0) -> Fetch:
    """Fetch small files over mutual TLS 1.3. No proxies, no redirects: sources are named hosts."""
    for path in (credentials.ca, credentials.certificate, credentials.private_key):
        if not os.path.isfile(path):
            raise ReplicaError(
                f"{path} is missing on this host, so no source can be asked. Run role onprem.deepseek.tls on it first."
            )
    context = ssl.create_default_context(cafile=credentials.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(credentials.certificate, credentials.private_key)

    def fetch(url: str, limit: int) -> bytes:
        parts = urlsplit(url)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=timeout, context=context
        )
        try:
            connection.request("GET", parts.path)
            response = connection.getresponse()
            if response.status != 200:
                raise SourceError(f"answered {response.status} {response.reason} to {parts.path}")
            data = response.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(f"cannot be reached: {error}", dead=True) from error
        finally:
            connection.close()
        if len(data) > limit:
            raise SourceError(f"sent more than {limit} bytes for {parts.path}")
        return data

    return fetch


def mounted_folder(url: str) -> str | None:
    """The folder that a ``file://`` URL names; None for a URL of another scheme.

    Raises ReplicaError if it names another host (RFC 8089 allows that) or no absolute path.
    """
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    if parts.netloc or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise ReplicaError(f"source {url!r} is not file:// and the absolute path of a folder")
    return unquote(parts.path)


def _read_mounted(folder: str, path: str) -> bytes:
    try:
        return read_small(os.path.join(folder, path), METADATA_LIMIT)
    except FileNotFoundError as error:
        # A store has releases; without them this is the folder below a mount that is not there.
        if os.path.isdir(os.path.join(folder, "releases")):
            raise SourceError(f"it has no {path}") from error
        raise SourceError(f"{folder} holds no store; is it mounted?", dead=True) from error
    except OSError as error:
        raise SourceError(f"{error.filename}: {error.strerror}") from error


class Sources:
    """The hosts and folders to ask, in order. One that cannot be reached is asked once, not once per file."""

    def __init__(self, urls: Sequence[str], fetch: Fetch) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        for url in self._urls:
            if mounted_folder(url) is not None:
                continue
            if urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
                raise ReplicaError(f"source {url!r} is not an https or file URL")
        self._fetch = fetch
        self.dead: set[str] = set()
        self.problems: dict[str, str] = {}

    def results(self, path: str, read: Callable[[Get], T]) -> Iterator[tuple[str, T]]:
        """Yield (source, result) of *read* for each source where it succeeds; note why others fail."""
        for url in self._urls:
            if url in self.dead:
                continue
            try:
                value = read(functools.partial(self._get, url))
            except SourceError as error:
                self.problems[url] = str(error)
                if error.dead:
                    self.dead.add(url)
            except ArtifactError as error:
                self.problems[url] = f"{path}: {error}"
            else:
                yield url, value

    def _get(self, url: str, path: str) -> bytes:
        folder = mounted_folder(url)
        if folder is not None:
            return _read_mounted(folder, path)
        return self._fetch(f"{url}/{quote(path)}", METADATA_LIMIT)

    def first(self, path: str, check: Callable[[bytes], object]) -> bytes:
        """The first copy of *path* that passes *check*."""

        def read(get: Get) -> bytes:
            data = get(path)
            check(data)
            return data

        for _unused_url, data in self.results(path, read):
            return data
        raise ReplicaError(self.failure(path))

    def failure(self, path: str) -> str:
        reasons = "; ".join(f"{url}: {reason}" for url, reason in sorted(self.problems.items()))
        return (
            f"No source has an acceptable copy of {path}: {reasons or 'no sources are configured'}. "
            "Check that at least one storage host is up, or the store mounted, and holds the release."
        )


# --- pull -----------------------------------------------------------------------------------------


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
        bring = Bring(
            request.store,
            request.public_key,
            Sources(request.sources, fetch),
            run,
            credentials,
            make_room,
        )
        return _pull(request, bring)


def _check_pinned(request: Request, found: str) -> None:
    if request.release_digest and found and found != request.release_digest:
        raise ReplicaError(
            f"Release {request.model}/{request.version} has SHA-256 {found}, expected {request.release_digest}: "
            "the same version was signed twice with different contents. Publish under a new version."
        )


def _pull(request: Request, bring: Bring) -> Replica:
    sources = bring.sources
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
    bring = replace(bring, spare=frozenset(release.artifacts()))
    for item in release.artifacts(request.kinds, request.precisions):
        replica.artifacts.append(bring.ensure(holding_of(request, *item), request.full))
    if not local:
        # Last, so that a release is only ever seen on a host that holds all of it.
        write_release(request.store, release, data, signature)
    replica.changed = not local or any(item.state != "complete" for item in replica.artifacts)
    replica.source_problems = sources.problems
    return replica


def write_release(store: str, release: Release, data: bytes, signature: bytes) -> None:
    path = release_path(store, release.model, release.version)
    ensure_directory(os.path.dirname(path))
    write_file(f"{path}.sig", signature)
    write_file(path, data)


def _fetch_release(request: Request, sources: Sources) -> tuple[bytes, bytes, Release]:
    path = f"releases/{request.model}/{request.version}.json"

    def read(get: Get) -> tuple[bytes, bytes, Release]:
        data, signature = get(path), get(f"{path}.sig")
        verify_release_signature(request.public_key, data, signature)
        return data, signature, parse_release(data, request.model, request.version)

    for _unused_url, found in sources.results(path, read):
        return found
    raise ReplicaError(sources.failure(path))


def replicas(sources: Sources, model: str, version: str, digest: str) -> list[str]:
    """The sources that have this very release. A source shows a release only when it holds all of it."""
    path = f"releases/{quote(model)}/{quote(version)}.json"

    def read(get: Get) -> None:
        found = sha256_hex(get(path))
        if found != digest:
            raise ArtifactError(f"it has SHA-256 {found}, expected {digest}")

    return [url for url, _unused in sources.results(path, read)]


@dataclass(frozen=True)
class Bring:
    """How artifacts come into a store: from where, with what, and whose signatures count."""

    store: str
    public_key: bytes
    sources: Sources
    run: Run
    credentials: Credentials
    make_room: MakeRoom | None = None
    spare: frozenset[tuple[str, str]] = frozenset()

    def ensure(self, holding: Holding, full: bool = True) -> ArtifactState:
        """Have a whole, verified copy: the one that is here, mended if that is enough, or a download."""
        found = artifact_state(self.store, holding, full)
        if not found.problems:
            return found
        manifest = holding.judge(found.path, False)[0] if mendable(found) else None
        if manifest is not None:
            _tidy(found.path, manifest)
            seal_directory(found.path)
            fetched = 0
        else:
            fetched = self._download(holding)
        left = artifact_state(self.store, holding, full)
        if left.problems:
            raise ReplicaError(f"{left.path} is still damaged after repair: {_list(left.problems)}")
        state = "pulled" if found.state == "missing" else "repaired"
        return replace(left, state=state, fetched=fetched, repaired=found.problems)

    def offers(self, holding: Holding) -> tuple[bytes, list[str]]:
        """The manifest that the first good source has, and all sources that have the same."""
        path = f"{holding.path}/{MANIFEST}"
        offers = list(self.sources.results(path, holding.offer))
        if not offers:
            raise NoSourceError(self.sources.failure(path))
        first = offers[0][1]
        return first, [url for url, data in offers if data == first]

    def _download(self, holding: Holding) -> int:
        """Bring an artifact to its final name from what is here and what the sources have."""
        path = holding.path
        folder = os.path.join(self.store, path)
        data, urls = self.offers(holding)
        manifest = parse_manifest(data)
        pieces = self.sources.first(f"{path}/{PIECES}", lambda data: check_metalink(data, manifest))
        signature = self.sources.first(
            f"{path}/{SIGNATURE}",
            lambda data: verify_model_signature(self.public_key, data, manifest),
        )
        part = f"{folder}.part"
        start = folder if os.path.isdir(folder) and not os.path.islink(folder) else part
        wanted = _wanted(start, check_metalink(pieces, manifest))
        self._have_space(start, wanted)
        _withdraw(folder, part)
        _tidy(part, manifest)
        self._fetch(part, wanted, urls, path)
        for name, content in ((MANIFEST, data), (PIECES, pieces), (SIGNATURE, signature)):
            write_file(os.path.join(part, name), content)
        seal_directory(part)
        _unused_manifest, problems = holding.judge(part, True)
        if problems:
            raise ReplicaError(
                f"{part} does not verify after the download and is left for inspection: {_list(problems)}"
            )
        os.rename(part, folder)
        sync_path(os.path.dirname(folder))
        return sum(item.size for item in wanted.values())

    def _have_space(self, folder: str, wanted: Mapping[str, FileHash]) -> None:
        """Refuse before writing, not when the disk is full."""
        needed = _needed(folder, wanted)
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
        folders = [folder for folder in map(mounted_folder, urls) if folder is not None]
        left = _copy_mounted(part, wanted, [os.path.join(folder, path) for folder in folders])
        hosts = [f"{url}/{path}" for url in urls if mounted_folder(url) is None]
        if left and not hosts:
            raise ReplicaError(
                f"Not as they were signed in {', '.join(folders)}: {', '.join(sorted(left)[:5])}. Nothing of it is used. "
                "Repair the files there, or add a storage host to the sources."
            )
        if left:
            _run_aria2(part, left, hosts, self.run, self.credentials)


def mendable(found: ArtifactState) -> bool:
    """Whether nothing is wrong but what needs no bytes from elsewhere."""
    return found.state == "damaged" and all(item.kind in LOCAL_KINDS for item in found.problems)


def _list(problems: Sequence[Difference]) -> str:
    shown = "; ".join(str(problem) for problem in problems[:5])
    return shown + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")


def read_manifest(folder: str, digest: str) -> Manifest:
    """The manifest of an artifact, if it is the one that *digest* names."""
    return check_manifest(read_small(os.path.join(folder, MANIFEST)), digest)


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


def _wanted(folder: str, files: Mapping[str, FileHash]) -> dict[str, FileHash]:
    """Files that are not yet here, whole and right."""
    wanted: dict[str, FileHash] = {}
    for path, expected in files.items():
        full = os.path.join(folder, path)
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


def _needed(folder: str, wanted: Mapping[str, FileHash]) -> int:
    """Bytes that these files will take beyond what of them is here."""
    needed = 0
    for path, expected in wanted.items():
        try:
            here = os.lstat(os.path.join(folder, path)).st_blocks * 512
        except OSError:
            here = 0
        needed += max(0, expected.size - here)
    return needed


def _withdraw(folder: str, part: str) -> None:
    """Make the working folder. What is wrong loses its final name first, so that nobody uses it."""
    ensure_directory(os.path.dirname(folder))
    for path in (folder, part):
        if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
            os.unlink(path)
    if os.path.isdir(folder):
        if os.path.isdir(part):
            shutil.rmtree(part)
        os.rename(folder, part)
        sync_path(os.path.dirname(folder))
    ensure_directory(part)


def _tidy(folder: str, manifest: Manifest) -> None:
    """Remove what does not belong into an artifact; keep downloads that can be resumed."""
    wanted = set(manifest.files) | set(RESERVED)
    wanted |= {f"{path}.aria2" for path in manifest.files}
    parents = {os.path.dirname(path) for path in manifest.files}
    for root, folders, files in os.walk(folder, topdown=False):
        for name in files + folders:
            full = os.path.join(root, name)
            path = os.path.relpath(full, folder)
            if os.path.islink(full) or (
                name in files and (path not in wanted or not os.path.isfile(full))
            ):
                os.unlink(full)
            elif name in folders and path in wanted:
                shutil.rmtree(full)
            elif name in folders and path not in parents and not os.listdir(full):
                os.rmdir(full)


def _copy_mounted(
    part: str, wanted: Mapping[str, FileHash], folders: Sequence[str]
) -> dict[str, FileHash]:
    """Copy files from where they are mounted, and give back those that no folder has as they were signed."""
    if not folders:
        return dict(wanted)

    for path in wanted:
        ensure_directory(os.path.dirname(os.path.join(part, path)))

    def brought(path: str) -> bool:
        target = os.path.join(part, path)
        for name in (target, f"{target}.aria2"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        return any(_copied(os.path.join(folder, path), target, wanted[path]) for folder in folders)

    largest_first = sorted(wanted, key=lambda path: -wanted[path].size)
    try:
        with ThreadPoolExecutor(worker_count(len(largest_first))) as pool:
            found = list(pool.map(brought, largest_first))
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise _disk_full(part) from error
    return {
        path: wanted[path] for path, right in zip(largest_first, found, strict=True) if not right
    }


def _copied(source: str, target: str, expected: FileHash) -> bool:
    """Copy a file if it is the expected one; else leave nothing behind."""
    hasher = PieceHasher()
    try:
        with open_regular(source) as reading, open(target, "xb") as writing:
            if os.fstat(reading.fileno()).st_size == expected.size:
                for block in iter(lambda: reading.read(BLOCK), b""):
                    hasher.update(block)
                    writing.write(block)
        if hasher.finish() == expected:
            return True
    except ArtifactError:
        return False
    except OSError as error:
        # What the disk here refuses is not the source's fault.
        if error.errno in _NO_SPACE or error.filename == target:
            raise
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    return False


def _forget_progress(part: str, files: Iterable[str]) -> None:
    """Remove what aria2 noted of a download: it hashes what is there instead.

    A note that was cut off, as by a full disk or a reset, would make it fail each time.
    """
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(part, f"{path}.aria2"))


def _disk_full(part: str) -> ReplicaError:
    return ReplicaError(
        f"The disk became full while files were fetched into {part}, which is kept for the next try. "
        "Something else writes to it: there was room before. Free some, and run this again."
    )


def _run_aria2(
    part: str,
    wanted: Mapping[str, FileHash],
    urls: Sequence[str],
    run: Run,
    credentials: Credentials,
) -> None:
    for path, expected in wanted.items():
        full = os.path.join(part, path)
        ensure_directory(os.path.dirname(full))
        if os.path.lexists(full):
            # Sealed, as it was when it was whole. Its owner may not write to it, unless that is a root with all privileges.
            os.chmod(full, 0o644)
        if expected.size == 0:
            # aria2 has nothing to request for an empty file.
            with open(full, "wb"):
                pass
    files = {path: expected for path, expected in wanted.items() if expected.size}
    if not files:
        return
    notes = (os.path.join(part, f"{path}.aria2") for path in files)
    if any(os.path.exists(note) and os.path.getsize(note) == 0 for note in notes):
        _forget_progress(part, files)

    def pull(sources: Sequence[str], at_a_time: int, share: Mapping[str, FileHash]) -> Completed:
        with tempfile.NamedTemporaryFile(prefix="deepseek-", suffix=".meta4") as metalink:
            metalink.write(expand_metalink(share, sources))
            metalink.flush()
            return run(aria2_command(part, metalink.name, credentials, at_a_time))

    # All sources at once; then each alone, since aria2 sometimes gives up on a piece that two sources have
    # wrong before it has asked the third. What is right by then is kept.
    attempts = [list(urls)] if len(urls) == 1 else [list(urls), *([url] for url in urls)]
    for attempt in attempts:
        shares = shares_of(files, min(FILES_AT_A_TIME, worker_count(len(files))))
        one = functools.partial(pull, attempt, FILES_AT_A_TIME // len(shares))
        with ThreadPoolExecutor(len(shares)) as pool:
            ended = list(pool.map(one, shares))
        files = {
            path: files[path]
            for share, done in zip(shares, ended, strict=True)
            if done.rc
            for path in share
        }
        if not files:
            return
        _forget_progress(part, files)
        if any(done.rc == _ARIA2_NO_SPACE for done in ended):
            raise _disk_full(part)
    failed = next(done for done in ended if done.rc)
    output = (failed.stderr.strip() or failed.stdout.strip()).splitlines()
    raise ReplicaError(
        f"No source has all pieces right: aria2c ended with status {failed.rc} while fetching into {part}, which is kept "
        f"for the next try. Its last words: {' | '.join(output[-12:])}"
    )


def run_command(command: Sequence[str]) -> Completed:
    """Run it without a proxy of the environment, which must not come between the hosts of a site."""
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    done = subprocess.run(
        list(command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    return Completed(done.returncode, done.stdout, done.stderr)


def shares_of(files: Mapping[str, FileHash], number: int) -> list[dict[str, FileHash]]:
    """Divide files into at most *number* shares of about the same bytes, none of them empty."""
    shares: list[dict[str, FileHash]] = [{} for _share in range(number)]
    sizes = [0] * number
    for path in sorted(files, key=lambda path: (-files[path].size, path)):
        least = sizes.index(min(sizes))
        shares[least][path] = files[path]
        sizes[least] += files[path].size
    return [share for share in shares if share]


def aria2_command(part: str, metalink: str, credentials: Credentials, files: int) -> list[str]:
    """The command that pulls, resumes and repairs: it hashes what is there and fetches what is wrong.

    *files* of the Metalink are fetched at the same time.
    """
    return [
        "aria2c",
        "--no-conf=true",
        "--no-netrc=true",
        f"--metalink-file={metalink}",
        f"--dir={part}",
        "--check-integrity=true",
        "--continue=true",
        "--allow-overwrite=true",
        "--auto-file-renaming=false",
        "--file-allocation=none",
        "--remote-time=false",
        "--split=6",
        "--max-connection-per-server=2",
        "--min-split-size=64M",
        f"--max-concurrent-downloads={files}",
        # A host that hangs takes connections and sends nothing: its pieces must not wait long for it.
        "--connect-timeout=3",
        "--timeout=5",
        "--max-tries=2",
        "--retry-wait=1",
        "--min-tls-version=TLSv1.3",
        "--check-certificate=true",
        f"--ca-certificate={credentials.ca}",
        f"--certificate={credentials.certificate}",
        f"--private-key={credentials.private_key}",
        "--console-log-level=warn",
        "--summary-interval=0",
        "--download-result=full",
        "--show-console-readout=false",
    ]


# --- one at a time --------------------------------------------------------------------------------


@contextlib.contextmanager
def store_lock(store: str, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Serialise publishing and pulling on one host; give up with a reason rather than hang."""
    path = os.path.join(store, ".lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StoreBusyError(
                        f"another publish or pull holds {path} for over {timeout:.0f} s; try again when it is done"
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)
