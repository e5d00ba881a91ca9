# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``releases/<model>/<version>.json``: the artifacts that a model version consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .manifest import SCHEMA, canonical_json, parse_object
from .names import RELEASE_KINDS, ArtifactError, check_digest, check_name


@dataclass(frozen=True)
class Release:
    """A model version and the artifacts it consists of."""

    model: str
    version: str
    checkpoint: str
    graphs: Mapping[str, str]

    def to_bytes(self) -> bytes:
        return canonical_json(
            {
                "schema": SCHEMA,
                "model": self.model,
                "version": self.version,
                "checkpoint": self.checkpoint,
                "graphs": dict(self.graphs),
            }
        )

    def artifacts(
        self, kinds: Sequence[str] = RELEASE_KINDS, precisions: Sequence[str] = ()
    ) -> list[tuple[str, str]]:
        """(kind, digest) of each artifact, without repetition, checkpoint first.

        With *precisions*, only the graphs of these.
        """
        lacking = [name for name in precisions if name not in self.graphs]
        if lacking:
            raise ArtifactError(
                f"release {self.model}/{self.version} has no graph of precision {', '.join(lacking)} "
                f"(it has {', '.join(sorted(self.graphs)) or 'none'}): publish that precision under a new version"
            )
        wanted: list[tuple[str, str]] = []
        if "checkpoint" in kinds:
            wanted.append(("checkpoint", self.checkpoint))
        if "graph" in kinds:
            graphs = {self.graphs[name] for name in precisions or self.graphs}
            wanted.extend(("graph", digest) for digest in sorted(graphs))
        return wanted


def parse_release(data: bytes, model: str | None = None, version: str | None = None) -> Release:
    """Read a release; with *model* and *version*, refuse one that was filed under another name."""
    value = parse_object(data, "release", ("schema", "model", "version", "checkpoint", "graphs"))
    graphs = value["graphs"]
    if not isinstance(graphs, dict):
        raise ArtifactError("release: graphs is no mapping")
    release = Release(
        model=check_name(value["model"], "release: model"),
        version=check_name(value["version"], "release: version"),
        checkpoint=check_digest(value["checkpoint"], "release: checkpoint"),
        graphs={
            check_name(precision, "release: precision"): check_digest(
                digest, f"release: graph {precision}"
            )
            for precision, digest in graphs.items()
        },
    )
    for what, expected, found in (
        ("model", model, release.model),
        ("version", version, release.version),
    ):
        if expected is not None and expected != found:
            raise ArtifactError(f"release is for {what} {found!r}, not {expected!r}")
    return release
