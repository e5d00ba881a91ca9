# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is published or stored already, and whether it is what a plan asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..artifacts.hashing import FileHash
from ..artifacts.manifest import Manifest
from ..artifacts.names import ArtifactError, artifact_path, release_path, retired_path
from ..artifacts.release import Release
from ..checkpoint.files import CheckpointError
from ..checkpoint.inspect import checksum_problems
from ..checkpoint.precisions import EXPORTED
from .recipes import Plan, Recipe
from .state import read_manifest, read_release
from .writer import PublishError


@dataclass
class Published:
    """What was done, or in check mode what would be."""

    changed: bool = False
    release: Release | None = None
    before: str = ""
    actions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def did(self, action: str) -> None:
        self.changed = True
        self.actions.append(action)

    @property
    def rebuild_reason(self) -> str:
        """Why graphs were made, those of other precisions than the exported one by name."""
        return "; ".join(
            reason if precision == EXPORTED else f"{precision}: {reason}"
            for precision, reason in self.reasons.items()
        )


@dataclass(frozen=True)
class Existing:
    """A release that is already there, with a signature that verifies."""

    data: bytes
    release: Release


def existing_release(plan: Plan) -> Existing | None:
    path = release_path(plan.store, plan.model, plan.version)
    retired = retired_path(plan.store, plan.model, plan.version)
    if os.path.lexists(retired):
        raise PublishError(
            f"Release {plan.label} was retired ({retired}). A version is never used twice: publish under a new version."
        )
    if not os.path.lexists(path):
        return None
    try:
        data, _unused_signature, release = read_release(
            plan.store, plan.model, plan.version, plan.public_key
        )
    except ArtifactError as error:
        # Never sign it again: that would vouch for whatever somebody made of it.
        raise PublishError(
            f"Release {plan.label} exists on this host, but is not what was signed: {path}: {error}. Pull it again from a "
            "storage host with model_replica. Only if the signing key was replaced on purpose, remove the file and publish again."
        ) from error
    return Existing(data, release)


def refuse_unlike_published(plan: Plan, hashed: Mapping[str, FileHash]) -> None:
    if not plan.checksums:
        return
    found = {path: item.sha256 for path, item in hashed.items()}
    try:
        problems = list(checksum_problems(plan.checksums, found))
    except CheckpointError as error:
        raise PublishError(f"{plan.checksums}: {error}") from error
    if problems:
        raise PublishError(
            f"The checkpoint {plan.checkpoint} is not what was published: {'; '.join(map(str, problems))}"
        )


def refuse_other_checkpoint(plan: Plan, release: Release, manifest: Manifest) -> None:
    if release.checkpoint == manifest.digest:
        return
    directory = artifact_path(plan.store, "checkpoint", plan.model, release.checkpoint)
    try:
        detail = _compare(read_manifest(directory, release.checkpoint), manifest)
    except (OSError, ArtifactError):
        detail = f"its checkpoint is {release.checkpoint}, this one is {manifest.digest}"
    raise PublishError(
        f"Release {plan.label} is already published and {plan.checkpoint} is not what it was made from: {detail}. "
        "A published version never changes: publish this checkpoint under a new version."
    )


def refuse_other_precisions(plan: Plan, release: Release) -> None:
    asked = {EXPORTED, *(precision.name for precision in plan.precisions)} if plan.export else set()
    if asked == release.graphs.keys():
        return
    raise PublishError(
        f"Release {plan.label} is already published in {', '.join(sorted(release.graphs)) or 'no precision'}, and asked for is "
        f"{', '.join(sorted(asked)) or 'none'}. A published version never changes: publish other precisions under a new version."
    )


def _compare(before: Manifest, after: Manifest) -> str:
    parts: list[str] = []
    for what, names in (
        (
            "changed",
            [
                path
                for path in after.files
                if path in before.files and after.files[path] != before.files[path]
            ],
        ),
        ("added", [path for path in after.files if path not in before.files]),
        ("missing", [path for path in before.files if path not in after.files]),
    ):
        if names:
            parts.append(f"{what}: {', '.join(sorted(names)[:5])}")
    for what, old, new in (
        ("source", before.source, after.source),
        ("license", before.license, after.license),
    ):
        if old != new:
            parts.append(f"{what} was {old!r}, is {new!r}")
    return "; ".join(parts) or "the manifests differ"


def choose_graphs(
    plan: Plan,
    recipes: Sequence[Recipe],
    checkpoint: str,
    existing: Existing | None,
    done: Published,
) -> dict[str, str | None]:
    """Digest of the graph of each precision, or None with a reason when it has to be made."""
    chosen: dict[str, str | None] = {}
    for recipe in recipes:
        if existing is not None:
            digest = _published_graph(plan, recipe, existing.release, done)
        else:
            digest = _stored_graph(plan, recipe, chosen.get(EXPORTED, checkpoint), done)
        chosen[recipe.precision] = digest
    return chosen


def _stored_graph(plan: Plan, recipe: Recipe, parent: str | None, done: Published) -> str | None:
    if parent is None:
        done.reasons[recipe.precision] = f"the {EXPORTED} graph that it is made from is new"
        return None
    reasons: list[str] = []
    for digest, manifest in _graphs_of(plan, parent):
        # A graph is made in several precisions; only those of the same one say what has changed.
        if manifest.parameters.get("arguments", {}).get("precision") == recipe.precision:
            asked, changed = recipe.differences(manifest)
            if not asked and not changed:
                return digest
            reasons.append("; ".join(asked + changed))
    done.reasons[recipe.precision] = (
        reasons[-1] if reasons else f"there is no graph of {recipe.parent} {parent[:12]} yet"
    )
    return None


def _graphs_of(plan: Plan, parent: str) -> list[tuple[str, Manifest]]:
    root = os.path.join(plan.store, "graph", plan.model)
    found: list[tuple[str, Manifest]] = []
    for digest in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        try:
            manifest = read_manifest(os.path.join(root, digest), digest)
        except (OSError, ArtifactError):
            continue
        if manifest.kind == "graph" and manifest.parents == (parent,):
            found.append((digest, manifest))
    return found


def _published_graph(plan: Plan, recipe: Recipe, release: Release, done: Published) -> str | None:
    """The graph of a published version stays, also after an update of the tools: versions never change."""
    digest = release.graphs[recipe.precision]
    directory = artifact_path(plan.store, "graph", plan.model, digest)
    try:
        manifest = read_manifest(directory, digest)
    except (OSError, ArtifactError):
        done.reasons[recipe.precision] = (
            f"the graph {digest[:12]} of this release is not on this host"
        )
        return None
    asked, changed = recipe.differences(manifest)
    if asked:
        raise PublishError(
            f"Release {plan.label} is already published with another {recipe.precision} graph: {'; '.join(asked)}. "
            "A published version never changes: publish under a new version."
        )
    if changed:
        done.warnings.append(
            f"Release {plan.label} keeps the {recipe.precision} graph it was published with, although tools changed since "
            f"({'; '.join(changed)}). Publish a new version to {recipe.verb} it again."
        )
    return digest
