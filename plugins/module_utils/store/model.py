# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is asked to hold, and what it holds: the terms that sources, pulls and state share."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..artifacts.manifest import Manifest
from ..artifacts.names import RELEASE_KINDS, check_digest, check_name, release_path
from ..artifacts.release import Release
from ..artifacts.verify import Difference

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
METADATA_LIMIT = 64 * 1024 * 1024
# Space that must stay free after a pull: a full file system breaks logs and services as well.
SPACE_RESERVE = 64 * 1024 * 1024


class ReplicaError(Exception):
    """The release could not be pulled onto this host; the message says why and what to do."""


class NoSourceError(ReplicaError):
    """No source has what is asked for."""


class StoreBusyError(ReplicaError):
    """Another publish or pull is at work in the store."""


class SourceError(Exception):
    """One source did not give one file. With *dead*, it will not give any other either."""

    def __init__(self, reason: str, dead: bool = False) -> None:
        super().__init__(reason)
        self.dead = dead


T = TypeVar("T")
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
class ArtifactRef:
    """An artifact that a host is to hold: how to verify a copy, and which manifest of a source to accept.

    ``digest`` names its directory: the digest of its manifest, or an engine's key. ``verify`` gets a directory
    and whether to hash every byte; ``fetch_manifest`` gives a source's manifest or raises ArtifactError.
    """

    kind: str
    model: str
    digest: str
    verify: Callable[[str, bool], tuple[Manifest | None, list[Difference]]]
    fetch_manifest: Callable[[Get], bytes]

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


def disk_full(part: str) -> ReplicaError:
    return ReplicaError(
        f"The disk became full while files were fetched into {part}, which is kept for the next try. "
        "Something else writes to it: there was room before. Free some, and run this again."
    )
