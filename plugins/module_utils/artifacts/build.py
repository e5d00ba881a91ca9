# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest and the Metalink of a new artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .hashing import FileHash, sha256_hex
from .manifest import FileEntry, Manifest, parse_manifest
from .metalink import metalink_bytes


def describe(
    kind: str,
    name: str,
    files: Mapping[str, FileHash],
    source: str = "",
    spdx: str = "",
    tools: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    parents: Sequence[str] = (),
    evaluation: Mapping[str, Any] | None = None,
) -> tuple[Manifest, bytes]:
    """Manifest and Metalink for hashed files; the manifest passes the same checks as one received."""
    pieces = metalink_bytes(files)
    manifest = Manifest(
        kind=kind,
        name=name,
        files={path: FileEntry(item.size, item.sha256) for path, item in files.items()},
        pieces=FileEntry(len(pieces), sha256_hex(pieces)),
        source=source,
        license=spdx,
        tools=tools or {},
        parameters=parameters or {},
        evaluation=evaluation or {},
        parents=tuple(parents),
    )
    return parse_manifest(manifest.to_bytes()), pieces
