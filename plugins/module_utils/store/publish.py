# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish a model version: checkpoint and graphs become signed artifacts, a signed release names them.

The release file is written last, so a publish that is interrupted anywhere has published nothing, and
the next one finds by digest what was already done. A published version never changes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..artifacts.build import describe
from ..artifacts.files import ensure_directory, list_directory, read_small
from ..artifacts.hashing import FileHash, hash_files, sha256_file, sha256_hex
from ..artifacts.manifest import Manifest
from ..artifacts.names import ArtifactError, artifact_path, check_name, release_path, retired_path
from ..artifacts.release import Release
from ..artifacts.signatures import encode_signature, verify_release_signature
from ..checkpoint.files import CheckpointError
from ..checkpoint.inspect import (
    READ_LIMIT,
    Report,
    checksum_problems,
    failure_message,
    inspect,
    unwritten,
)
from ..checkpoint.precisions import EXPORTED, Precision, precision_problems
from .replica import read_manifest, read_release, store_lock, write_release
from .writer import Place, PublishError, clone_file

# Run by the serving environment's own Python: what makes a graph, so that its bytes depend on it. The command's own code is named by
# its files as well: a package may change while its version does not.
VERSIONS_PROGRAM = """
import hashlib, importlib.metadata, json, platform, sys
made_by = {
    "export": ("exporter", ("export/", "model_files/"), ("deepseek-serving", "numpy", "onnx")),
    "prepare": (
        "preparer",
        ("model_files/", "prepare/"),
        ("deepseek-serving", "ml_dtypes", "numpy", "onnx", "onnxruntime", "tokenizers"),
    ),
}
code, places, packages = made_by[sys.argv[1]]
versions = {name: importlib.metadata.version(name) for name in packages}
versions["python"] = platform.python_version()
record = importlib.metadata.distribution("deepseek-serving").read_text("RECORD") or ""
own = tuple("deepseek_serving/" + place for place in places)
files = sorted(line for line in record.splitlines() if line.startswith(own) and ".pyc" not in line)
versions[code] = hashlib.sha256("\\n".join(files).encode()).hexdigest()[:16]
print(json.dumps(versions))
"""


_DONE = {"export": "exported", "prepare": "prepared"}


@dataclass(frozen=True)
class Plan:
    """What to publish."""

    store: str
    model: str
    version: str
    checkpoint: str
    public_key: bytes
    source: str = ""
    license: str = ""
    precisions: Sequence[Precision] = ()
    max_len: int | None = None
    slots: int | None = None
    full: bool = True
    # whether graphs are made of the checkpoint, or some server loads it as it is
    export: bool = True
    # files of the checkpoint that may be code, by path
    allowed: Sequence[str] = ()
    # the publisher's list of digests, as sha256sum writes it
    checksums: str = ""
    # tensors that may be full of zeros, by names or patterns
    zero_tensors: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_name(self.version, "version")
        check_name(self.model, "model")

    @property
    def place(self) -> Place:
        return Place(self.store, self.model, self.public_key)

    @property
    def label(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True)
class Tools:
    """How to reach what needs the serving environment or the signing token."""

    versions: Callable[[str], dict[str, str]]
    export: Callable[[str, str], None]
    prepare: Callable[[str, str, Precision], None]
    sign_folder: Callable[[str], None]
    sign_data: Callable[[bytes], bytes]
    # loads a checkpoint's tokenizer and template as the service does, raises CheckpointError, and returns what is only worth a warning
    check: Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Recipe:
    """How the graph of one precision is made; by all of it the store is searched for one that was made before."""

    precision: str
    parent: str  # the kind of artifact that it is made from
    verb: str
    arguments: Mapping[str, Any]
    texts: Mapping[str, str | None]
    versions: Mapping[str, str]
    make: Callable[[str, str], None]

    def differences(self, manifest: Manifest) -> tuple[list[str], list[str]]:
        """How a graph was asked for differently, and how its tools differ from the installed ones."""
        made = manifest.parameters.get("arguments")
        made = made if isinstance(made, dict) else {}
        asked = [
            f"{key} was {made.get(key)!r}, is {value!r}"
            for key, value in self.arguments.items()
            if made.get(key) != value
        ]
        asked += [
            f"the {name} text was {str(manifest.parameters.get(name))[:12]}, is {str(digest)[:12]}"
            for name, digest in self.texts.items()
            if manifest.parameters.get(name) != digest
        ]
        tools = [
            f"{name} was {manifest.tools.get(name)}, is {version}"
            for name, version in sorted(self.versions.items())
            if manifest.tools.get(name) != version
        ]
        return asked, tools


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


@dataclass(frozen=True)
class Look:
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
    look = _look(plan, tools, report.files)
    if look.existing is None:
        look.done.warnings.extend(_refuse_unreadable(plan, tools, report))
    if check_mode:
        _predict(plan, look)
        return look.done
    ensure_directory(plan.store)
    with store_lock(plan.store):
        if _existing(plan) != look.existing:
            # Another publish of this version came first: what it wrote is the version now.
            look = _look(plan, tools, report.files)
        return _carry_out(plan, tools, look)


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


def _look(plan: Plan, tools: Tools, files: Sequence[str]) -> Look:
    done = Published()
    existing = _existing(plan)
    hashed = hash_files(plan.checkpoint, files)
    _refuse_unlike_published(plan, hashed)
    manifest, pieces = describe("checkpoint", plan.model, hashed, plan.source, plan.license)
    if existing is not None:
        done.before = existing.data.decode("utf-8")
        _refuse_other_checkpoint(plan, existing.release, manifest)
        _refuse_other_precisions(plan, existing.release)
    recipes = _recipes(plan, tools)
    graphs = _choose_graphs(plan, recipes, manifest.digest, existing, done)
    return Look(existing, manifest, pieces, recipes, graphs, done)


def _carry_out(plan: Plan, tools: Tools, look: Look) -> Published:
    existing, manifest, done = look.existing, look.manifest, look.done
    _publish_checkpoint(plan, tools, manifest, look.pieces, done)
    made: dict[str, str] = {}
    for recipe in look.recipes:
        parent = made.get(EXPORTED, manifest.digest)
        chosen = look.graphs[recipe.precision]
        made[recipe.precision] = _publish_graph(plan, tools, recipe, parent, chosen, existing, done)
    if existing is None:
        done.release = Release(plan.model, plan.version, manifest.digest, made)
        _publish_release(plan, tools, done.release)
        done.did(f"wrote release {plan.label}")
    else:
        done.release = existing.release
    return done


def _recipes(plan: Plan, tools: Tools) -> list[Recipe]:
    """The exported graph first: the others are made from it."""
    if not plan.export:
        return []
    arguments = {"max_len": plan.max_len, "slots": plan.slots, "precision": EXPORTED}
    versions = tools.versions("export")
    recipes = [Recipe(EXPORTED, "checkpoint", "export", arguments, {}, versions, tools.export)]
    for precision in plan.precisions:
        recipes.append(_prepared(tools, precision))
    return recipes


def _prepared(tools: Tools, precision: Precision) -> Recipe:
    texts = {
        "held_out": sha256_file(precision.held_out),
        "calibration": sha256_file(precision.calibration) if precision.calibration else None,
    }

    def make(source: str, out: str) -> None:
        tools.prepare(source, out, precision)
        _check_texts(precision, texts, out)

    return Recipe(
        precision.name,
        "graph",
        "prepare",
        {"precision": precision.name, **precision.arguments},
        texts,
        tools.versions("prepare"),
        make,
    )


def _check_texts(precision: Precision, texts: Mapping[str, str | None], out: str) -> None:
    """The manifest must not name a text that was replaced before it was read."""
    judged = _read_record(out, "evaluation.json").get("held_out") or {}
    prepared = _read_record(out, "export.json").get("preparation") or {}
    read = {"held_out": judged, "calibration": prepared.get("calibration") or {}}
    for what, path in precision.texts.items():
        if read[what].get("sha256") != texts[what]:
            raise PublishError(
                f"{path} changed while {precision.name} was prepared with it. Publish again when nothing writes to it."
            )


def _read_record(folder: str, name: str) -> dict[str, Any]:
    path = os.path.join(folder, name)
    value = json.loads(read_small(path).decode("utf-8")) if os.path.lexists(path) else {}
    if not isinstance(value, dict):
        raise PublishError(f"{path} is not a JSON object. Install the serving package again.")
    return value


# --- what is there already ------------------------------------------------------------------------


def _existing(plan: Plan) -> Existing | None:
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
            f"Release {plan.label} exists on this host, but is not what was signed: {path}: {error}. Bring it back from a "
            "storage host with model_replica. Only if the signing key was replaced on purpose, remove the file and publish again."
        ) from error
    return Existing(data, release)


def _refuse_unlike_published(plan: Plan, hashed: Mapping[str, FileHash]) -> None:
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


def _refuse_other_checkpoint(plan: Plan, release: Release, manifest: Manifest) -> None:
    if release.checkpoint == manifest.digest:
        return
    folder = artifact_path(plan.store, "checkpoint", plan.model, release.checkpoint)
    try:
        detail = _compare(read_manifest(folder, release.checkpoint), manifest)
    except (OSError, ArtifactError):
        detail = f"its checkpoint is {release.checkpoint}, this one is {manifest.digest}"
    raise PublishError(
        f"Release {plan.label} is already published and {plan.checkpoint} is not what it was made from: {detail}. "
        "A published version never changes: publish this checkpoint under a new version."
    )


def _refuse_other_precisions(plan: Plan, release: Release) -> None:
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


def _choose_graphs(
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
    folder = artifact_path(plan.store, "graph", plan.model, digest)
    try:
        manifest = read_manifest(folder, digest)
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


# --- doing it -------------------------------------------------------------------------------------


def _predict(plan: Plan, look: Look) -> None:
    """Check mode: the same questions as the real run asks, without the answers being acted upon."""
    done, graphs = look.done, look.graphs
    _predict_artifact(plan, "checkpoint", look.manifest.digest, done)
    for recipe in look.recipes:
        digest = graphs[recipe.precision]
        if digest is None:
            reason = done.reasons[recipe.precision]
            done.did(f"{recipe.verb} {recipe.precision} graph: {reason}")
        else:
            _predict_artifact(plan, "graph", digest, done)
    known = {precision: digest for precision, digest in graphs.items() if digest is not None}
    if len(known) == len(graphs):
        done.release = Release(plan.model, plan.version, look.manifest.digest, known)
    if look.existing is None:
        done.did(f"write release {plan.label}")


def _predict_artifact(plan: Plan, kind: str, digest: str, done: Published) -> None:
    problems = plan.place.problems(kind, digest, plan.full)
    if problems:
        done.did(f"write {kind} {digest[:12]}: {problems}")


def _publish_checkpoint(
    plan: Plan, tools: Tools, manifest: Manifest, pieces: bytes, done: Published
) -> None:
    place = plan.place
    if not place.problems("checkpoint", manifest.digest, plan.full):
        return
    place.check_space(manifest.size)
    with place.workspace("checkpoint") as work:
        folder = os.path.join(work, manifest.digest)
        for path in manifest.files:
            clone_file(os.path.join(plan.checkpoint, path), os.path.join(folder, path))
        place.finish(tools.sign_folder, folder, manifest, pieces, manifest.digest)
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
    place = plan.place
    if graph is not None:
        problems = place.problems("graph", graph, plan.full)
        if not problems:
            return graph
        # Also when only its signature is wrong: signing it again would vouch for bytes of unknown origin,
        # while making it again from what is verified gives the same bytes.
        done.reasons[recipe.precision] = (
            f"the graph {graph[:12]} is damaged on this host: {problems}"
        )
    with place.workspace("graph") as work:
        out = os.path.join(work, "out")
        _make(plan, recipe, parent, out, existing)
        manifest, pieces = _describe_graph(plan, recipe, parent, out)
        _refuse_other_graph(plan, recipe, manifest.digest, existing)
        folder = os.path.join(work, manifest.digest)
        os.rename(out, folder)
        place.finish(tools.sign_folder, folder, manifest, pieces, manifest.digest)
    done.did(f"{_DONE[recipe.verb]} {recipe.precision} graph {manifest.digest[:12]}")
    return manifest.digest


def _make(plan: Plan, recipe: Recipe, parent: str, out: str, existing: Existing | None) -> None:
    """Make a graph from what was verified and stored, not from a folder that others may write to."""
    if not plan.full:
        problems = plan.place.problems(recipe.parent, parent)
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
    recorded = _read_record(out, "export.json").get("parameters")
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
        _read_record(out, "evaluation.json"),
    )


def _refuse_other_graph(plan: Plan, recipe: Recipe, digest: str, existing: Existing | None) -> None:
    expected = existing.release.graphs[recipe.precision] if existing is not None else None
    if expected is not None and digest != expected:
        raise PublishError(
            f"The graph {expected[:12]} of release {plan.label} is damaged or missing on this host, and the attempt to "
            f"{recipe.verb} it again gave {digest[:12]}, since the tools are not the same. Bring it back from a storage host with "
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
