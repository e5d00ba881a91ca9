# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take a bundle into a site: everything is judged first, unpacked beside what is in use, and put in its place by one rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..artifacts.files import DIRECTORY_MODE, ensure_directory, read_small, sync_path, write_file
from ..artifacts.manifest import Manifest, parse_manifest
from ..artifacts.names import MANIFEST, ArtifactError
from ..common.findings import Finding
from .archives import unpack
from .create import free_bytes
from .layout import MANIFEST_SIGNATURE, SBOM, VERIFIER, Content, Description, describe_bundle
from .verify import examine

CURRENT = "current"
_KEPT = 2  # bundles of a site: the one in use, and the one before it
_MARGIN = 64 * 1024 * 1024
_WORDS = {"apt": "packages"}  # of kinds of contents, as reports name them


@dataclass(frozen=True)
class Need:
    """What a host, or a role, must find in a bundle."""

    where: str
    kind: str
    variant: str
    provides: tuple[str, ...] = ()
    architecture: str = ""


@dataclass(frozen=True)
class Order:
    """A bundle, the key that it must be signed by, and the directory of the site that it is to be in."""

    directory: str
    public_key: bytes
    site: str
    needs: Sequence[Need] = ()
    allow_older: bool = False
    free: Callable[[str], int] = free_bytes


@dataclass
class Imported:
    """What was done, or in check mode would be; nothing where there are faults."""

    serial: int = 0
    directory: str = ""
    faults: list[Finding] = field(default_factory=list)
    changed: bool = False
    contents: Mapping[str, Content] = field(default_factory=dict)


def import_bundle(
    order: Order, finish: Callable[[str, Description], None], write: bool = True
) -> Imported:
    """Import a bundle, or say everything that speaks against it, and change nothing then.

    *finish* is called with the unpacked directory before it gets its place, to sign indexes. Raises ArtifactError and OSError
    where unpacking fails; what was in use stays so.
    """
    found = examine(order.directory, order.public_key)
    if found.manifest is None or found.description is None:
        return Imported(faults=found.faults)
    description, manifest = found.description, found.manifest
    place = os.path.join(order.site, str(description.serial))
    same = _manifest_at(place)
    faults = [*found.faults, *_serial(order, description, manifest, same)]
    faults += lacking(description, order.needs)
    if same is None:
        faults += _room(order, description)
    in_use = os.path.basename(os.path.realpath(os.path.join(order.site, CURRENT)))
    due = same is None or in_use != str(description.serial)
    outcome = Imported(description.serial, place, faults, due and not faults, description.contents)
    if outcome.changed and write:
        ensure_directory(order.site)
        if same is None:
            _unpack(order, description, manifest, place, finish)
        _point(order.site, description.serial)
        _remove_older(order.site, description.serial)
    return outcome


def serial_in_use(site: str) -> int:
    """The serial of the bundle that a site uses; 0 where it uses none."""
    manifest = _manifest_at(os.path.join(site, CURRENT))
    return describe_bundle(manifest).serial if manifest is not None else 0


def _manifest_at(directory: str) -> Manifest | None:
    try:
        return parse_manifest(read_small(os.path.join(directory, MANIFEST)))
    except FileNotFoundError:
        return None


def _serial(
    order: Order, description: Description, manifest: Manifest, same: Manifest | None
) -> list[Finding]:
    in_use = serial_in_use(order.site)
    if same is not None and same.digest != manifest.digest:
        what = f"bundle {description.serial} was imported before with other bytes"
        return [Finding(MANIFEST, what, "Make the bundle again, which gives it a new serial")]
    if description.serial < in_use and not order.allow_older:
        what = f"its serial is {description.serial}, and the site uses {in_use}: it is older"
        remedy = "Import a newer one; to go back on purpose, set offline_bundle_allow_older: true"
        return [Finding(MANIFEST, what, remedy)]
    return []


def lacking(description: Description, needs: Sequence[Need]) -> list[Finding]:
    """What is needed and not in the bundle, for each need."""
    faults = []
    for need in needs:
        kind = _WORDS.get(need.kind, need.kind)
        there = [
            content
            for content in description.contents.values()
            if content.kind == need.kind and content.variant == need.variant
        ]
        if need.architecture and need.architecture != description.architecture:
            what = f"it is {need.architecture}, and the bundle is for {description.architecture}"
            faults.append(Finding(need.where, what, "Make a bundle on a machine of that type"))
        if not there:
            has = sorted(
                {one.variant for one in description.contents.values() if one.kind == need.kind}
            )
            what = (
                f"the bundle has no {kind} for {need.variant} (it has {', '.join(has) or 'none'})"
            )
            remedy = (
                "Make a bundle with it (offline_bundle_debian_releases, offline_bundle_flavours)"
            )
            faults.append(Finding(need.where, what, remedy))
            continue
        missing = [name for name in need.provides if name not in there[0].provides]
        if missing:
            what = f"the bundle's {kind} for {need.variant} have no {', '.join(missing)}"
            remedy = (
                "Make a bundle with it (offline_bundle_packages, offline_bundle_python_versions)"
            )
            faults.append(Finding(need.where, what, remedy))
    return faults


def _room(order: Order, description: Description) -> list[Finding]:
    needed = sum(content.size for content in description.contents.values()) + _MARGIN
    free = order.free(order.site)
    if free >= needed:
        return []
    what = f"it has {free} bytes free, and the bundle takes {needed}"
    return [Finding(order.site, what, "Make room, or set offline_bundle_site_dir to a larger disk")]


def _unpack(
    order: Order,
    description: Description,
    manifest: Manifest,
    place: str,
    finish: Callable[[str, Description], None],
) -> None:
    stage = os.path.join(order.site, f".{description.serial}.part")
    shutil.rmtree(stage, ignore_errors=True)
    os.mkdir(stage)
    try:
        for name, content in description.contents.items():
            count = unpack(order.directory, content.parts, manifest, os.path.join(stage, name))
            if count != content.files:
                raise ArtifactError(
                    f"{name} has {count} files, and {MANIFEST} says {content.files}"
                )
        for name in (SBOM, VERIFIER, MANIFEST, MANIFEST_SIGNATURE):
            data = read_small(os.path.join(order.directory, name))
            write_file(os.path.join(stage, name), data)
        finish(stage, description)
        os.chmod(stage, DIRECTORY_MODE)
        _sync(stage)
        os.rename(stage, place)
        sync_path(order.site)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _sync(stage: str) -> None:
    for root, _directories, files in os.walk(stage):
        for name in files:
            sync_path(os.path.join(root, name))
        sync_path(root)


def _point(site: str, serial: int) -> None:
    link = os.path.join(site, f".{CURRENT}.part")
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(str(serial), link)
    os.replace(link, os.path.join(site, CURRENT))
    sync_path(site)


def _remove_older(site: str, serial: int) -> None:
    """Bundles that neither are in use nor were the last before it."""
    others = sorted(int(name) for name in os.listdir(site) if name.isdecimal())
    others = [other for other in others if other != serial]
    for other in others[: max(0, len(others) - (_KEPT - 1))]:
        shutil.rmtree(os.path.join(site, str(other)))
