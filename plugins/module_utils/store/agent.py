# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The store agent of a storage host: pull missing releases (sync), hash and repair stored ones (scrub).

Run by systemd on the host, without Ansible:

    deepseek-store sync|scrub SETTINGS

Other hosts only say what there is. A release counts when it carries the site's signature, and everything
below it is pinned by digest, so a host that lies can offer nothing that was not published.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..artifacts.files import ensure_directory, read_small
from ..artifacts.hashing import FileHash, hash_file
from ..artifacts.manifest import parse_manifest
from ..artifacts.metalink import check_metalink
from ..artifacts.names import (
    MANIFEST,
    PIECES,
    ArtifactError,
    check_digest,
    check_name,
    retired_path,
)
from ..common.commands import Run, run_command
from ..common.prometheus import Sample, metrics_text
from .engines import KIND as ENGINE
from .engines import Request as EngineRequest
from .engines import Wanted, ensure_engine
from .model import ArtifactState, Credentials, Fetch, Get, ReplicaError, Request, StoreBusyError
from .placement import holders
from .replica import ensure_replica
from .sources import Sources, https_fetcher, replicas
from .state import artifact_state, inspect_replica, list_releases

# A publish or another pull may be at work in the store: then the next run does it.
_NO_WAIT = 0.0
# Seconds for a host to answer: nobody waits for this, and a busy host is not one that is down.
_TIMEOUT = 20.0
_WRONG = (ArtifactError, ReplicaError, OSError)


@dataclass(frozen=True)
class Settings:
    """What role model_storage writes for this host."""

    name: str
    store: str
    public_key: str
    ca: str
    certificate: str
    private_key: str
    sources: Sequence[str]  # all others that serve the store
    hosts: Sequence[str]  # names of all storage hosts, this one among them
    state: str  # directory for what must outlive a run
    metrics: str = ""  # directory of node exporter's textfile collector


def read_settings(path: str) -> Settings:
    with open(path, encoding="utf-8") as stream:
        return Settings(**json.load(stream))


@dataclass
class StoreAgent:
    """One run: the means, and what it found."""

    settings: Settings
    fetch: Fetch
    run: Run
    log: Callable[[str], None]
    problems: list[str] = field(default_factory=list)
    busy: bool = False

    def __post_init__(self) -> None:
        self.public_key = read_small(self.settings.public_key)
        self.sources = Sources(self.settings.sources, self.fetch)

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.settings.ca, self.settings.certificate, self.settings.private_key)

    def request(self, model: str, version: str, full: bool) -> Request:
        return Request(
            self.settings.store, model, version, self.public_key, self.settings.sources, full=full
        )

    def wrong(self, what: str, error: object) -> None:
        self.problems.append(f"{what}: {error}")
        self.log(f"{what}: {error}")

    def wait(self, what: str, error: object) -> None:
        """Not wrong, and not done either: the next run does it."""
        self.busy = True
        self.log(f"{what}: {error}")

    # --- what there is ----------------------------------------------------------------------------

    def names(self, path: str, kind: str) -> set[str]:
        """Names of the entries of one kind in a directory, as all sources together list it."""

        def read(get: Get) -> set[str]:
            return _listed(get(f"{path}/"), kind)

        return {name for _unused, found in self.sources.results(path, read) for name in found}

    def offered(self) -> set[tuple[str, str]]:
        """(model, version) of what any source has."""
        return {
            (model, name[: -len(".json")])
            for model in self.names("releases", "directory")
            for name in self.names(f"releases/{model}", "file")
            if name.endswith(".json")
        }

    def wanted(self) -> list[tuple[str, str]]:
        """What this host is to hold of what it and the others have."""
        settings = self.settings
        known = self.offered() | set(list_releases(settings.store))
        return sorted(
            (model, version)
            for model, version in known
            if settings.name in holders(f"{model}/{version}", settings.hosts)
            and not os.path.lexists(retired_path(settings.store, model, version))
        )

    def graphs(self) -> dict[str, set[str]]:
        """Digests of the graphs of each model that a good release on this host names."""
        found: dict[str, set[str]] = {}
        for model, version in list_releases(self.settings.store):
            release = inspect_replica(self.request(model, version, False)).release
            if release is not None:
                found.setdefault(model, set()).update(release.graphs.values())
        return found

    def engine(self, model: str, key: str, graphs: set[str], get: Get) -> Wanted | None:
        """An engine, if it is of a graph that this host holds."""
        manifest = parse_manifest(get(f"{ENGINE}/{model}/{key}/{MANIFEST}"))
        parents = [parent for parent in manifest.parents if parent in graphs]
        return Wanted(model, key, parents[0], self.public_key) if parents else None

    def local_engines(self) -> Iterator[Wanted]:
        store = self.settings.store

        def get(path: str) -> bytes:
            return read_small(os.path.join(store, path))

        for model, graphs in sorted(self.graphs().items()):
            root = os.path.join(store, ENGINE, model)
            for key in sorted(os.listdir(root)) if os.path.isdir(root) else []:
                if not is_digest(key):
                    continue
                try:
                    wanted = self.engine(model, key, graphs, get)
                except _WRONG:
                    # Its own manifest does not say what it is of; another host's does.
                    wanted = self._offered_engine(model, key, graphs)
                if wanted is not None:
                    yield wanted

    def offered_engines(self) -> Iterator[Wanted]:
        """The engines of this host's graphs that it lacks and a source has."""
        for model, graphs in sorted(self.graphs().items()):
            for key in sorted(self.names(f"{ENGINE}/{model}", "directory")):
                path = f"{ENGINE}/{model}/{key}"
                if not is_digest(key) or os.path.lexists(os.path.join(self.settings.store, path)):
                    continue

                wanted = self._offered_engine(model, key, graphs)
                if wanted is not None:
                    yield wanted

    def _offered_engine(self, model: str, key: str, graphs: set[str]) -> Wanted | None:
        def read(get: Get) -> Wanted | None:
            return self.engine(model, key, graphs, get)

        found = self.sources.results(f"{ENGINE}/{model}/{key}", read)
        return next((wanted for _unused, wanted in found if wanted is not None), None)

    # --- sync -------------------------------------------------------------------------------------

    def sync(self) -> dict[str, Any]:
        """Pull what this host lacks, judged by sizes and metadata."""
        ensure_directory(self.settings.store)
        whole: dict[tuple[str, str], str] = {}
        fetched = 0
        wanted = self.wanted()
        for model, version in wanted:
            request = self.request(model, version, False)
            try:
                found = inspect_replica(request)
                left = ensure_replica(
                    request, self.fetch, self.run, self.credentials, found, lock_seconds=_NO_WAIT
                )
            except StoreBusyError as error:
                self.wait(f"release {model}/{version}", error)
                continue
            except _WRONG as error:
                self.wrong(f"release {model}/{version}", error)
                continue
            whole[model, version] = left.digest
            fetched += sum(item.fetched for item in left.artifacts)
            if left.changed:
                self.log(f"release {model}/{version}: pulled or repaired")
        for engine in self.offered_engines():
            fetched += self._hold(engine, False)
        if self.settings.sources and not set(self.settings.sources) - self.sources.dead:
            self.wrong("sources", f"none can be reached: {self.sources.problems}")
        copies = {
            item: 1 + len(replicas(self.sources, *item, digest)) for item, digest in whole.items()
        }
        return {
            "wanted": len(wanted),
            "copies": copies,
            "fetched": fetched,
            "up": {url: url not in self.sources.dead for url in self.settings.sources},
        }

    def _hold(self, wanted: Wanted, full: bool) -> int:
        """Pull or repair an engine; return the bytes that were downloaded."""
        request = EngineRequest(self.settings.store, wanted, self.settings.sources, full)
        what = f"engine {wanted.model}/{wanted.key[:12]}"
        try:
            held = ensure_engine(
                request, self.fetch, self.run, self.credentials, lock_seconds=_NO_WAIT
            )
        except StoreBusyError as error:
            self.wait(what, error)
            return 0
        except _WRONG as error:
            self.wrong(what, error)
            return 0
        if not held.found and full:
            self.wrong(what, f"no source has it whole ({held.reason})")
        elif not held.found:
            # It is in a list of another host, and not what it should be: this host cannot repair that.
            self.log(f"{what}: not taken: {dict(held.source_problems)}")
        elif held.changed:
            self.log(f"{what}: {held.state}")
        return held.copy.fetched

    # --- scrub ------------------------------------------------------------------------------------

    def scrub(self) -> dict[str, Any]:
        """Hash every byte of this host, and repair from other hosts what is not as it was signed."""
        bytes_read = bad = 0
        seen: set[str] = set()
        for model, version in list_releases(self.settings.store):
            request = self.request(model, version, True)
            try:
                found = inspect_replica(request)
                for item in found.artifacts:
                    bytes_read += item.size if item.path not in seen else 0
                    bad += bad_pieces(item) if item.path not in seen else 0
                    seen.add(item.path)
                if found.complete:
                    continue
                bad += bool(found.problem)
                self.log(
                    f"release {model}/{version}: {'; '.join(found.as_dict(request)['problems'][:5])}"
                )
                ensure_replica(
                    request, self.fetch, self.run, self.credentials, found, lock_seconds=_NO_WAIT
                )
                self.log(f"release {model}/{version}: repaired")
            except StoreBusyError as error:
                self.wait(f"release {model}/{version}", error)
            except _WRONG as error:
                self.wrong(f"release {model}/{version}", error)
        for wanted in list(self.local_engines()):
            state = artifact_state(self.settings.store, wanted.ref, True)
            bytes_read += state.size
            if state.problems:
                bad += bad_pieces(state)
                self.log(f"engine {wanted.model}/{wanted.key[:12]}: {state.problems[0]}")
                self._hold(wanted, True)
        return {"bytes": bytes_read, "bad": bad}


def is_digest(name: str) -> bool:
    try:
        check_digest(name, "name")
    except ArtifactError:
        return False
    return True


def _listed(data: bytes, kind: str) -> set[str]:
    """Entries of a directory, as nginx lists it in JSON. Names that the store never makes are left out."""
    try:
        entries = json.loads(data.decode("utf-8"))
        names = {entry["name"] for entry in entries if entry["type"] == kind}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"it is no list of files: {error}") from error
    good = set()
    for name in names:
        try:
            good.add(check_name(name, "name"))
        except ArtifactError:
            continue
    return good


def bad_pieces(item: ArtifactState) -> int:
    """How many pieces of an artifact are not what was signed: those of its files by the Metalink, and one for each other problem."""
    if not item.problems:
        return 0
    try:
        manifest = parse_manifest(read_small(os.path.join(item.path, MANIFEST)))
        pieces = check_metalink(read_small(os.path.join(item.path, PIECES)), manifest)
    except (OSError, ArtifactError):
        return len(item.problems)
    return sum(
        _bad_in(os.path.join(item.path, problem.path), pieces.get(problem.path))
        for problem in item.problems
    )


def _bad_in(path: str, expected: FileHash | None) -> int:
    if expected is None:
        return 1
    try:
        found = hash_file(path).pieces
    except (OSError, ArtifactError):
        return max(1, len(expected.pieces))
    missing = len(expected.pieces) - len(found)
    return max(1, sum(a != b for a, b in zip(found, expected.pieces)) + max(0, missing))


def read_state(path: str) -> dict[str, float]:
    """Counters of earlier runs; they begin again where there are none that can be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
        return {str(name): float(number) for name, number in value.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def write_text(path: str, text: str) -> None:
    """At once, so that nobody reads half of it."""
    ensure_directory(os.path.dirname(path))
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        os.fchmod(stream.fileno(), 0o644)
    os.replace(temporary, path)


def _size_of(agent: StoreAgent, item: tuple[str, str]) -> int:
    found = inspect_replica(agent.request(*item, False))
    return sum(artifact.size for artifact in found.artifacts)


def sync_samples(
    agent: StoreAgent, done: dict[str, Any], state: dict[str, float]
) -> Iterator[Sample]:
    store = agent.settings.store
    disk = shutil.disk_usage(store)
    copies: dict[tuple[str, str], int] = done["copies"]
    largest = max((_size_of(agent, item) for item in copies), default=0)
    yield (
        "deepseek_store_releases",
        "Releases stored completely on this host (size check only).",
        "",
        len(copies),
    )
    yield (
        "deepseek_store_releases_missing",
        "Releases that are placed on this host and not stored completely.",
        "",
        done["wanted"] - len(copies),
    )
    for (model, version), number in sorted(copies.items()):
        labels = f'{{model="{model}",version="{version}"}}'
        yield ("deepseek_store_replicas", "Hosts that serve the release.", labels, number)
    for url, up in sorted(done["up"].items()):
        labels = f'{{source="{url}"}}'
        yield (
            "deepseek_store_source_up",
            "Whether the other storage host answered (1) or not (0).",
            labels,
            up,
        )
    yield ("deepseek_store_size_bytes", "Size of the store's file system in bytes.", "", disk.total)
    yield (
        "deepseek_store_free_bytes",
        "Free space of the store's file system in bytes.",
        "",
        disk.free,
    )
    yield (
        "deepseek_store_releases_fit",
        "Number of releases of the largest stored size that still fit; -1 if none is stored.",
        "",
        disk.free // largest if largest else -1,
    )
    yield ("deepseek_store_fetched_bytes_total", "Bytes pulled by sync.", "", state["fetched"])
    yield (
        "deepseek_store_last_good_sync_timestamp_seconds",
        "Unix time of the last sync after which this host stored everything that is placed on it.",
        "",
        state.get("last_good", 0),
    )


def scrub_samples(state: dict[str, float]) -> Iterator[Sample]:
    yield ("deepseek_store_scrubbed_bytes_total", "Bytes hashed by scrub.", "", state["bytes"])
    yield (
        "deepseek_store_bad_pieces_total",
        "Pieces of 64 MiB, or metadata files, with a wrong hash found by scrub: a disk is failing.",
        "",
        state["bad"],
    )
    yield (
        "deepseek_store_unrepaired",
        "Releases and engines that the last scrub could not repair.",
        "",
        state["unrepaired"],
    )
    yield (
        "deepseek_store_last_good_scrub_timestamp_seconds",
        "Unix time of the last scrub after which everything verified.",
        "",
        state.get("last_good", 0),
    )


def carry_out(agent: StoreAgent, command: str, now: float) -> int:
    """Run a command, keep the counters, write the metrics; return 1 if a problem is left."""
    settings = agent.settings
    path = os.path.join(settings.state, f"{command}.json")
    state = read_state(path)
    done = agent.sync() if command == "sync" else agent.scrub()
    for name in ("fetched", "bytes", "bad"):
        if name in done:
            state[name] = state.get(name, 0) + done[name]
    state["unrepaired"] = len(agent.problems)
    if not agent.problems and not agent.busy:
        state["last_good"] = now
    write_text(path, json.dumps(state))
    if settings.metrics:
        samples = sync_samples(agent, done, state) if command == "sync" else scrub_samples(state)
        write_text(
            os.path.join(settings.metrics, f"deepseek_store_{command}.prom"),
            metrics_text(list(samples)),
        )
    return 1 if agent.problems else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="deepseek-store",
        description="Pull, verify and repair the releases of this host's store.",
    )
    parser.add_argument("command", choices=["sync", "scrub"])
    parser.add_argument("settings", help="file that role model_storage writes")
    given = parser.parse_args(arguments)
    settings = read_settings(given.settings)
    credentials = Credentials(settings.ca, settings.certificate, settings.private_key)
    agent = StoreAgent(settings, https_fetcher(credentials, _TIMEOUT), run_command, _say)
    return carry_out(agent, given.command, time.time())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
