# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which known vulnerabilities are of what is in a bundle, by a feed in OSV's format that was carried to the machine.

https://ossf.github.io/osv-schema/: a package is affected by a version that is listed, or that lies in a range.
"""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..artifacts.files import read_small
from ..artifacts.names import ArtifactError
from .components import Component

_MAX_ENTRY = 4 * 1024 * 1024
_MAX_FEED = 1024 * 1024 * 1024
# Whether the first version is lower than the second.
Lower = Callable[[str, str], bool]


@dataclass(frozen=True)
class Vulnerability:
    """One entry of the feed, and the components that it affects."""

    identifier: str
    summary: str
    affected: tuple[Component, ...]


def read_feed(path: str) -> Iterator[Mapping[str, Any]]:
    """Entries of a JSON file with one entry or a list of them, or of a zip archive with a JSON file for each. Raises ArtifactError."""
    if not zipfile.is_zipfile(path):
        yield from _entries(read_small(path, _MAX_FEED), path)
        return
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".json"):
                with archive.open(name) as stream:
                    data = stream.read(_MAX_ENTRY + 1)
                if len(data) > _MAX_ENTRY:
                    raise ArtifactError(f"{path}: {name} has more than {_MAX_ENTRY} bytes")
                yield from _entries(data, f"{path}: {name}")


def _entries(data: bytes, what: str) -> Iterator[Mapping[str, Any]]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{what} is no JSON: {error}") from error
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            raise ArtifactError(f"{what} is no feed in OSV's format: an entry has no id")
        yield entry


def find(feed: Iterable[Mapping[str, Any]], components: Iterable[Component]) -> list[Vulnerability]:
    """Entries that affect one of the components, by identifier; those that were withdrawn do not count."""
    by_name: dict[tuple[str, str], list[Component]] = {}
    for component in components:
        by_name.setdefault((component.ecosystem, component.known_as), []).append(component)
    found: dict[str, Vulnerability] = {}
    for entry in feed:
        hit: dict[str, Component] = {}
        for affected in entry.get("affected", []) if not entry.get("withdrawn") else []:
            package = affected.get("package", {})
            ecosystem, name = package.get("ecosystem", ""), package.get("name", "")
            if ecosystem == "PyPI":
                name = re.sub(r"[-_.]+", "-", name).lower()
            for component in by_name.get((ecosystem, name), []):
                if _affects(affected, component):
                    hit[component.purl] = component
        if hit:
            items = tuple(hit[purl] for purl in sorted(hit))
            summary = str(entry.get("summary") or entry.get("details") or "")[:500]
            found[entry["id"]] = Vulnerability(entry["id"], summary, items)
    return [found[identifier] for identifier in sorted(found)]


def _affects(affected: Mapping[str, Any], component: Component) -> bool:
    version = component.known_version
    if version in affected.get("versions", []):
        return True
    lower = _lower_pypi if component.ecosystem == "PyPI" else _lower_debian
    return any(
        _in_range(span.get("events", []), version, lower)
        for span in affected.get("ranges", [])
        if span.get("type") == "ECOSYSTEM"
    )


def _in_range(events: Iterable[Mapping[str, str]], version: str, lower: Lower) -> bool:
    """OSV's own evaluation: events in the order of their versions turn it on and off."""
    inside = False
    for event in events:
        if "introduced" in event:
            start = event["introduced"]
            inside = inside or start == "0" or not lower(version, start)
        elif "fixed" in event:
            inside = inside and lower(version, event["fixed"])
        elif "last_affected" in event:
            inside = inside and not lower(event["last_affected"], version)
    return inside


def _lower_pypi(first: str, second: str) -> bool:
    # ansible-core needs it, and so it is where this runs.
    from packaging.version import InvalidVersion, Version

    try:
        return Version(first) < Version(second)
    except InvalidVersion as error:
        raise ArtifactError(f"versions {first} and {second} cannot be compared: {error}") from error


@cache
def _lower_debian(first: str, second: str) -> bool:
    command = ["dpkg", "--compare-versions", first, "lt", second]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
