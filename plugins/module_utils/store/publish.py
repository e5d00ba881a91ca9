# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish a model version: checkpoint and graphs become signed artifacts, a signed release names them.

The release file is written last, so a publish that is interrupted anywhere has published nothing, and
the next one finds by digest what was already done. A published version never changes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..artifacts.build import describe
from ..artifacts.files import ensure_directory, list_directory
from ..artifacts.hashing import FileHash, hash_files, sha256_hex
from ..artifacts.manifest import Manifest
from ..artifacts.names import ArtifactError, artifact_path, release_path
from ..artifacts.release import Release
from ..artifacts.signatures import encode_signature, verify_release_signature
from ..checkpoint.files import CheckpointError
from ..checkpoint.inspect import READ_LIMIT, Report, failure_message, inspect, unwritten
from ..checkpoint.precisions import EXPORTED, precision_problems
from .lock import store_lock
from .published import (
    Existing,
    Published,
    choose_graphs,
    existing_release,
    refuse_other_checkpoint,
    refuse_other_precisions,
    refuse_unlike_published,
)
from .recipes import Plan, Recipe, Tools, read_record, recipes_of
from .state import write_release
from .writer import PublishError, clone_file

_DONE = {"export": "exported", "prepare": "prepared"}


@dataclass(frozen=True)
class Survey:
    """What is asked for beside what is there: by this it is decided what has to be done."""

    existing: Existing | None
    manifest: Manifest
    pieces: bytes
    recipes: Sequence[Recipe]
    graphs: Mapping[str, str | None]
    done: Published


def publish(plan: Plan, tools: Tools, check_mode: bool = False) -> Published:
    """Publish, or find that it was done before. Everything that can be refused is refused first."""
    report = inspect(plan.checkpoint, plan.export, plan.allowed, plan.checksums, plan.zero_tensors)
    for problem in precision_problems(plan.precisions, plan.export):
        report.add(*problem)
    if report.problems:
        raise PublishError(failure_message(report))
    survey = _survey(plan, tools, report.files)
    if survey.existing is None:
        survey.done.warnings.extend(_refuse_unreadable(plan, tools, report))
    if check_mode:
        _predict(plan, survey)
        return survey.done
    ensure_directory(plan.store)
    with store_lock(plan.store):
        if existing_release(plan) != survey.existing:
            # Another publish of this version came first: what it wrote is the version now.
            survey = _survey(plan, tools, report.files)
        return _carry_out(plan, tools, survey)


def _refuse_unreadable(plan: Plan, tools: Tools, report: Report) -> Sequence[str]:
    """Before a version is used up: what takes long, and what takes the service's own programs. Returns warnings."""
    if report.size > READ_LIMIT:
        report.problems.extend(unwritten(report, plan.zero_tensors))
    if report.problems:
        raise PublishError(failure_message(report))
    try:
        return tools.check(plan.checkpoint)
    except CheckpointError as error:
        report.refuse(plan.checkpoint, error)
        raise PublishError(failure_message(report)) from error


def _survey(plan: Plan, tools: Tools, files: Sequence[str]) -> Survey:
    done = Published()
    existing = existing_release(plan)
    hashed = hash_files(plan.checkpoint, files)
    refuse_unlike_published(plan, hashed)
    manifest, pieces = describe("checkpoint", plan.model, hashed, plan.source, plan.license)
    if existing is not None:
        done.before = existing.data.decode("utf-8")
        refuse_other_checkpoint(plan, existing.release, manifest)
        refuse_other_precisions(plan, existing.release)
    recipes = recipes_of(plan, tools)
    graphs = choose_graphs(plan, recipes, manifest.digest, existing, done)
    return Survey(existing, manifest, pieces, recipes, graphs, done)


def _carry_out(plan: Plan, tools: Tools, survey: Survey) -> Published:
    existing, manifest, done = survey.existing, survey.manifest, survey.done
    _publish_checkpoint(plan, tools, manifest, survey.pieces, done)
    made: dict[str, str] = {}
    for recipe in survey.recipes:
        parent = made.get(EXPORTED, manifest.digest)
        chosen = survey.graphs[recipe.precision]
        made[recipe.precision] = _publish_graph(plan, tools, recipe, parent, chosen, existing, done)
    if existing is None:
        done.release = Release(plan.model, plan.version, manifest.digest, made)
        _publish_release(plan, tools, done.release)
        done.did(f"wrote release {plan.label}")
    else:
        done.release = existing.release
    return done


def _predict(plan: Plan, survey: Survey) -> None:
    """Check mode: the same questions as the real run asks, without the answers being acted upon."""
    done, graphs = survey.done, survey.graphs
    _predict_artifact(plan, "checkpoint", survey.manifest.digest, done)
    for recipe in survey.recipes:
        digest = graphs[recipe.precision]
        if digest is None:
            reason = done.reasons[recipe.precision]
            done.did(f"{recipe.verb} {recipe.precision} graph: {reason}")
        else:
            _predict_artifact(plan, "graph", digest, done)
    known = {precision: digest for precision, digest in graphs.items() if digest is not None}
    if len(known) == len(graphs):
        done.release = Release(plan.model, plan.version, survey.manifest.digest, known)
    if survey.existing is None:
        done.did(f"write release {plan.label}")


def _predict_artifact(plan: Plan, kind: str, digest: str, done: Published) -> None:
    problems = plan.writer.problems(kind, digest, plan.full)
    if problems:
        done.did(f"write {kind} {digest[:12]}: {problems}")


def _publish_checkpoint(
    plan: Plan, tools: Tools, manifest: Manifest, pieces: bytes, done: Published
) -> None:
    writer = plan.writer
    if not writer.problems("checkpoint", manifest.digest, plan.full):
        return
    writer.check_space(manifest.size)
    with writer.workspace("checkpoint") as work:
        directory = os.path.join(work, manifest.digest)
        for path in manifest.files:
            clone_file(os.path.join(plan.checkpoint, path), os.path.join(directory, path))
        writer.finish(tools.sign_directory, directory, manifest, pieces, manifest.digest)
    done.did(f"wrote checkpoint {manifest.digest[:12]}")


def _publish_graph(
    plan: Plan,
    tools: Tools,
    recipe: Recipe,
    parent: str,
    graph: str | None,
    existing: Existing | None,
    done: Published,
) -> str:
    writer = plan.writer
    if graph is not None:
        problems = writer.problems("graph", graph, plan.full)
        if not problems:
            return graph
        # Also when only its signature is wrong: signing it again would vouch for bytes of unknown origin,
        # while making it again from what is verified gives the same bytes.
        done.reasons[recipe.precision] = (
            f"the graph {graph[:12]} is damaged on this host: {problems}"
        )
    with writer.workspace("graph") as work:
        out = os.path.join(work, "out")
        _make(plan, recipe, parent, out, existing)
        manifest, pieces = _describe_graph(plan, recipe, parent, out)
        _refuse_other_graph(plan, recipe, manifest.digest, existing)
        directory = os.path.join(work, manifest.digest)
        os.rename(out, directory)
        writer.finish(tools.sign_directory, directory, manifest, pieces, manifest.digest)
    done.did(f"{_DONE[recipe.verb]} {recipe.precision} graph {manifest.digest[:12]}")
    return manifest.digest


def _make(plan: Plan, recipe: Recipe, parent: str, out: str, existing: Existing | None) -> None:
    """Make a graph from what was verified and stored, not from a directory that others may write to."""
    if not plan.full:
        problems = plan.writer.problems(recipe.parent, parent)
        if problems:
            raise PublishError(
                f"The {recipe.parent} {parent[:12]} is damaged on this host: {problems}. Publish with verify=full to have it made again."
            )
    try:
        recipe.make(artifact_path(plan.store, recipe.parent, plan.model, parent), out)
    except PublishError as error:
        fate = "is not published" if existing is None else "stays as it was published"
        raise PublishError(f"{str(error).rstrip('.')}. Release {plan.label} {fate}.") from error


def _describe_graph(plan: Plan, recipe: Recipe, parent: str, out: str) -> tuple[Manifest, bytes]:
    files: dict[str, FileHash] = hash_files(out, list_directory(out))
    recorded = read_record(out, "export.json").get("parameters")
    parameters = dict(recorded) if isinstance(recorded, dict) else {}
    parameters["arguments"] = recipe.arguments
    parameters.update(recipe.texts)
    return describe(
        "graph",
        plan.model,
        files,
        plan.source,
        plan.license,
        recipe.versions,
        parameters,
        (parent,),
        read_record(out, "evaluation.json"),
    )


def _refuse_other_graph(plan: Plan, recipe: Recipe, digest: str, existing: Existing | None) -> None:
    expected = existing.release.graphs[recipe.precision] if existing is not None else None
    if expected is not None and digest != expected:
        raise PublishError(
            f"The graph {expected[:12]} of release {plan.label} is damaged or missing on this host, and the attempt to "
            f"{recipe.verb} it again gave {digest[:12]}, since the tools are not the same. Pull it again from a storage host with "
            "model_replica, or publish under a new version."
        )


def _publish_release(plan: Plan, tools: Tools, release: Release) -> None:
    data = release.to_bytes()
    signature = encode_signature(tools.sign_data(data))
    try:
        verify_release_signature(plan.public_key, data, signature)
    except ArtifactError as error:
        raise PublishError(
            f"The new signature of release {plan.label} is not acceptable: {error}. "
            "Check that the release public key belongs to the signing key in the token."
        ) from error
    write_release(plan.store, release, data, signature)


def summary(plan: Plan, done: Published) -> dict[str, Any]:
    """What a playbook gets to know about a published release."""
    release = done.release
    if release is None:
        return {}
    return {
        "model": release.model,
        "version": release.version,
        "checkpoint": release.checkpoint,
        "graphs": dict(release.graphs),
        "sha256": sha256_hex(release.to_bytes()),
        "path": release_path(plan.store, release.model, release.version),
    }
