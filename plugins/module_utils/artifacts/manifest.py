# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``manifest.json``: what an artifact consists of and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .hashing import sha256_hex
from .names import KINDS, MANIFEST, ArtifactError, check_digest, check_name, check_paths

SCHEMA = 1


def canonical_json(value: object) -> bytes:
    """JSON with one spelling for one value: what is hashed and signed must not depend on the writer."""
    return (
        json.dumps(value, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    ).encode("ascii")


@dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256 of one payload file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says."""

    kind: str
    name: str
    files: Mapping[str, FileEntry]
    pieces: FileEntry
    source: str = ""
    license: str = ""
    tools: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return canonical_json(
            {
                "schema": SCHEMA,
                "kind": self.kind,
                "name": self.name,
                "source": self.source,
                "license": self.license,
                "tools": dict(self.tools),
                "parameters": dict(self.parameters),
                "evaluation": dict(self.evaluation),
                "parents": list(self.parents),
                "files": {path: _entry_dict(entry) for path, entry in self.files.items()},
                "pieces": _entry_dict(self.pieces),
            }
        )

    @property
    def digest(self) -> str:
        return sha256_hex(self.to_bytes())

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return sum(entry.size for entry in self.files.values())


def _entry_dict(entry: FileEntry) -> dict[str, Any]:
    return {"size": entry.size, "sha256": entry.sha256}


def parse_object(data: bytes, what: str, keys: Sequence[str]) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise ArtifactError(f"{what} is not JSON: {error}") from error
    except RecursionError as error:
        raise ArtifactError(f"{what} is not acceptable: nested too deeply") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{what} is not a JSON object")
    missing = sorted(set(keys) - set(value))
    unknown = sorted(set(value) - set(keys))
    if missing or unknown:
        raise ArtifactError(f"{what} has missing keys {missing} and unknown keys {unknown}")
    if value["schema"] != SCHEMA or isinstance(value["schema"], bool):
        raise ArtifactError(
            f"{what} has schema {value['schema']!r}; this version reads schema {SCHEMA}"
        )
    return value


def _parse_entry(value: object, what: str) -> FileEntry:
    if not isinstance(value, dict) or set(value) != {"size", "sha256"}:
        raise ArtifactError(f"{what} must have exactly 'size' and 'sha256'")
    size = value["size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ArtifactError(f"{what} has size {size!r}, which is not a number of bytes")
    return FileEntry(size, check_digest(value["sha256"], f"{what}: sha256"))


def parse_manifest(data: bytes) -> Manifest:
    """Read ``manifest.json``, strictly: everything in it will be acted upon."""
    keys = (
        "schema",
        "kind",
        "name",
        "source",
        "license",
        "tools",
        "parameters",
        "evaluation",
        "parents",
        "files",
        "pieces",
    )
    value = parse_object(data, MANIFEST, keys)
    if value["kind"] not in KINDS:
        raise ArtifactError(
            "{} has kind {!r}; known kinds are {}".format(MANIFEST, value["kind"], ", ".join(KINDS))
        )
    for key in ("source", "license"):
        if not isinstance(value[key], str):
            raise ArtifactError(f"{MANIFEST}: {key} must be a string")
    for key in ("tools", "parameters", "evaluation", "files"):
        if not isinstance(value[key], dict):
            raise ArtifactError(f"{MANIFEST}: {key} must be an object")
    if not isinstance(value["parents"], list):
        raise ArtifactError(f"{MANIFEST}: parents must be a list")
    if not value["files"]:
        raise ArtifactError(f"{MANIFEST} lists no files")
    check_paths(value["files"])
    return Manifest(
        kind=value["kind"],
        name=check_name(value["name"], f"{MANIFEST}: name"),
        files={
            path: _parse_entry(entry, f"{MANIFEST}: file {path}")
            for path, entry in value["files"].items()
        },
        pieces=_parse_entry(value["pieces"], f"{MANIFEST}: pieces"),
        source=value["source"],
        license=value["license"],
        tools=value["tools"],
        parameters=value["parameters"],
        evaluation=value["evaluation"],
        parents=tuple(check_digest(parent, f"{MANIFEST}: parent") for parent in value["parents"]),
    )
