# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a bundle lies on a medium: its files, and what its manifest says beside them.

A bundle is an artifact of kind ``bundle``: ``manifest.json`` and ``pieces.meta4`` as every artifact has them, and files, which are the
parts of archives. ``manifest.json.sig`` is made as the signature of a release is (ECDSA P-256 with SHA-256 over the bytes, in base64).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..artifacts.manifest import Manifest
from ..artifacts.names import MANIFEST, PIECES, ArtifactError, check_name

KIND = "bundle"
NAME = "onprem-deepseek"
MANIFEST_SIGNATURE = f"{MANIFEST}.sig"
METADATA = (MANIFEST, MANIFEST_SIGNATURE, PIECES)
SBOM = "sbom.cdx.json"
VERIFIER = "bundle_verify.pyz"
# What a content can be: packages of one Debian release, wheels of one engine flavour, and so on.
CONTENT_KINDS = ("apt", "wheels", "collection", "docs", "images")
_PART = re.compile(r"(?P<content>.+)\.tar\.(?P<number>[0-9]{3})\Z")
_LARGEST_SERIAL = 10**12


@dataclass(frozen=True)
class Content:
    """One archive of a bundle: the parts that it is split into, in order, and what is in it."""

    kind: str
    parts: tuple[str, ...]
    size: int  # bytes of its files, unpacked
    files: int
    provides: tuple[str, ...]  # Debian packages, or versions of Python
    variant: str  # the Debian release's codename, or the flavour of the engine

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "parts": list(self.parts),
            "size": self.size,
            "files": self.files,
            "provides": list(self.provides),
            "variant": self.variant,
        }


@dataclass(frozen=True)
class Description:
    """What the parameters of a bundle's manifest say."""

    serial: int
    epoch: int  # seconds since 1970 of the newest source; no clock of the machine is in a bundle
    collection: str
    architecture: str  # as uname says it
    contents: Mapping[str, Content]

    def as_dict(self) -> dict[str, Any]:
        return {
            "serial": self.serial,
            "epoch": self.epoch,
            "collection": self.collection,
            "architecture": self.architecture,
            "contents": {name: content.as_dict() for name, content in self.contents.items()},
        }


def part_name(content: str, number: int) -> str:
    """Name of a part, counted from 0. Raises ArtifactError where there would be more than 1000."""
    if number > 999:
        raise ArtifactError(f"{content} needs more than 1000 parts: take larger ones")
    return f"{content}.tar.{number:03d}"


def content_of_part(name: str) -> str:
    """Name of the content that a file is a part of; empty for a file that is none."""
    match = _PART.fullmatch(name)
    return match["content"] if match else ""


def describe_bundle(manifest: Manifest) -> Description:
    """Read the parameters of a manifest, strictly. Raises ArtifactError."""
    if manifest.kind != KIND or manifest.name != NAME:
        raise ArtifactError(
            f"{MANIFEST} is of the {manifest.kind} {manifest.name}, and of no bundle"
        )
    value = manifest.parameters
    keys = {"serial", "epoch", "collection", "architecture", "contents"}
    if set(value) != keys or not isinstance(value["contents"], dict):
        raise ArtifactError(f"{MANIFEST}: parameters must have exactly {sorted(keys)}")
    contents = {
        check_name(name, f"{MANIFEST}: content"): _content(name, content)
        for name, content in value["contents"].items()
    }
    named = [part for content in contents.values() for part in content.parts]
    wanted = [path for path in manifest.files if content_of_part(path)]
    if sorted(named) != sorted(wanted):
        raise ArtifactError(f"{MANIFEST}: the contents name other parts than are listed as files")
    if not {SBOM, VERIFIER} <= manifest.files.keys():
        raise ArtifactError(f"{MANIFEST} lists no {SBOM}, or no {VERIFIER}")
    others = sorted(manifest.files.keys() - {SBOM, VERIFIER, *wanted})
    if others:
        raise ArtifactError(f"{MANIFEST} lists {', '.join(others)}, which no bundle has")
    return Description(
        serial=_number(value["serial"], "serial", _LARGEST_SERIAL),
        epoch=_number(value["epoch"], "epoch", 2**40),
        collection=_text(value["collection"], "collection"),
        architecture=_text(value["architecture"], "architecture"),
        contents=contents,
    )


def _content(name: str, value: object) -> Content:
    what = f"content {name}"
    if not isinstance(value, dict) or set(value) != set(Content.__dataclass_fields__):
        raise ArtifactError(f"{MANIFEST}: {what} has other keys than a content")
    if value["kind"] not in CONTENT_KINDS:
        raise ArtifactError(f"{MANIFEST}: {what} has kind {value['kind']!r}")
    parts = _texts(value["parts"], f"parts of {what}")
    if not parts or list(parts) != [part_name(name, number) for number in range(len(parts))]:
        raise ArtifactError(f"{MANIFEST}: the parts of {what} are not counted from 000")
    return Content(
        kind=value["kind"],
        parts=parts,
        size=_number(value["size"], f"size of {what}", 2**53),
        files=_number(value["files"], f"files of {what}", 10**7),
        provides=_texts(value["provides"], f"provides of {what}"),
        variant=_text(value["variant"], f"variant of {what}"),
    )


def _number(value: object, what: str, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise ArtifactError(f"{MANIFEST}: {what} is {value!r}, and no number from 0 to {largest}")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ArtifactError(f"{MANIFEST}: {what} is {value!r}, and no text")
    return value


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ArtifactError(f"{MANIFEST}: {what} is no list")
    texts: Sequence[str] = [_text(item, what) for item in value]
    return tuple(texts)
