# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish a model version: checkpoint and graph become signed artefacts, a signed release names them.

The release file is written last, so a publish that is interrupted anywhere has published nothing, and
the next one finds by digest what was already done. A published version never changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.artefact import (
    MANIFEST,
    PIECES,
    SIGNATURE,
    ArtefactError,
    FileHash,
    Manifest,
    Release,
    artefact_path,
    check_name,
    describe,
    encode_signature,
    ensure_folder,
    hash_files,
    list_folder,
    read_small,
    release_path,
    seal_folder,
    sha256_hex,
    sync_path,
    verify_folder,
    verify_model_signature,
    verify_release_signature,
    write_file,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint import (
    failure_message,
    inspect,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.replica import (
    SPACE_RESERVE,
    read_manifest,
    read_release,
    store_lock,
    write_release,
)

# The ioctl that shares blocks between files on XFS and btrfs: FICLONE in linux/fs.h.
_FICLONE = 0x40049409
_COPY_BLOCK = 4 * 1024 * 1024

# Run by the serving environment's own Python: what makes a graph, so that the exported bytes depend on it. The
# exporter is named by its files as well: a package may change while its version does not.
VERSIONS_PROGRAM = """
import hashlib, importlib.metadata, json, platform
versions = {name: importlib.metadata.version(name) for name in ("deepseek-serving", "numpy", "onnx")}
versions["python"] = platform.python_version()
record = importlib.metadata.distribution("deepseek-serving").read_text("RECORD") or ""
files = sorted(line for line in record.splitlines() if line.startswith("deepseek_serving/export/") and ".pyc" not in line)
versions["exporter"] = hashlib.sha256("\\n".join(files).encode()).hexdigest()[:16]
print(json.dumps(versions))
"""


class PublishError(Exception):
    """The version cannot be published; the message says why and what to do."""


@dataclass(frozen=True)
class Plan:
    """What to publish."""

    store: str
    model: str
    version: str
    checkpoint: str
    public_key: bytes
    source: str = ""
    licence: str = ""
    precision: str = "fp32"
    max_len: int | None = None
    slots: int | None = None
    full: bool = True

    def __post_init__(self) -> None:
        for what, value in (
            ("model", self.model),
            ("version", self.version),
            ("precision", self.precision),
        ):
            check_name(value, what)

    @property
    def arguments(self) -> dict[str, Any]:
        """What deepseek-export is asked for."""
        return {"max_len": self.max_len, "slots": self.slots, "precision": self.precision}

    @property
    def label(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True)
class Tools:
    """How to reach what needs the serving environment or the signing token."""

    versions: Callable[[], dict[str, str]]
    export: Callable[[str, str], None]
    sign_folder: Callable[[str], None]
    sign_data: Callable[[bytes], bytes]


@dataclass
class Published:
    """What was done, or in check mode what would be."""

    changed: bool = False
    release: Release | None = None
    before: str = ""
    actions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rebuild_reason: str = ""

    def did(self, action: str) -> None:
        self.changed = True
        self.actions.append(action)


@dataclass(frozen=True)
class Existing:
    """A release that is already there, with a signature that verifies."""

    data: bytes
    release: Release


def publish(plan: Plan, tools: Tools, check_mode: bool = False) -> Published:
    """Publish, or find that it was done before. Everything that can be refused is refused first."""
    report = inspect(plan.checkpoint)
    if report.problems:
        raise PublishError(failure_message(report))
    done = Published()
    existing = _existing(plan)
    manifest, pieces = describe(
        "checkpoint",
        plan.model,
        hash_files(plan.checkpoint, report.files),
        plan.source,
        plan.licence,
    )
    if existing is not None:
        done.before = existing.data.decode("utf-8")
        _refuse_other_checkpoint(plan, existing.release, manifest)
    graph = _choose_graph(plan, tools, manifest.digest, existing, done)
    if check_mode:
        _predict(plan, manifest, graph, existing, done)
        return done
    ensure_folder(plan.store)
    with store_lock(plan.store):
        _publish_checkpoint(plan, tools, manifest, pieces, done)
        digest = _publish_graph(plan, tools, manifest.digest, graph, existing, done)
        if existing is None:
            done.release = Release(
                plan.model, plan.version, manifest.digest, {plan.precision: digest}
            )
            _publish_release(plan, tools, done.release)
            done.did(f"wrote release {plan.label}")
        else:
            done.release = existing.release
    return done


# --- what is there already ------------------------------------------------------------------------


def _existing(plan: Plan) -> Existing | None:
    path = release_path(plan.store, plan.model, plan.version)
    if not os.path.lexists(path):
        return None
    try:
        data, _unused_signature, release = read_release(
            plan.store, plan.model, plan.version, plan.public_key
        )
    except ArtefactError as error:
        # Never sign it again: that would vouch for whatever somebody made of it.
        raise PublishError(
            f"Release {plan.label} exists on this host, but is not what was signed: {path}: {error}. Bring it back from a "
            "storage host with model_replica. Only if the signing key was replaced on purpose, remove the file and publish again."
        ) from error
    return Existing(data, release)


def _refuse_other_checkpoint(plan: Plan, release: Release, manifest: Manifest) -> None:
    if release.checkpoint == manifest.digest:
        return
    folder = artefact_path(plan.store, "checkpoint", plan.model, release.checkpoint)
    try:
        detail = _compare(read_manifest(folder, release.checkpoint), manifest)
    except (OSError, ArtefactError):
        detail = f"its checkpoint is {release.checkpoint}, this one is {manifest.digest}"
    raise PublishError(
        f"Release {plan.label} is already published and {plan.checkpoint} is not what it was made from: {detail}. "
        "A published version never changes: publish this checkpoint under a new version."
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
        ("licence", before.licence, after.licence),
    ):
        if old != new:
            parts.append(f"{what} was {old!r}, is {new!r}")
    return "; ".join(parts) or "the manifests differ"


def _graph_differences(
    plan: Plan, manifest: Manifest, versions: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """How the graph was asked for differently, and how its tools differ from the installed ones."""
    made = manifest.parameters.get("arguments")
    made = made if isinstance(made, dict) else {}
    arguments = [
        f"{key} was {made.get(key)!r}, is {value!r}"
        for key, value in plan.arguments.items()
        if made.get(key) != value
    ]
    tools = [
        f"{name} was {manifest.tools.get(name)}, is {version}"
        for name, version in sorted(versions.items())
        if manifest.tools.get(name) != version
    ]
    return arguments, tools


def _choose_graph(
    plan: Plan, tools: Tools, checkpoint: str, existing: Existing | None, done: Published
) -> str | None:
    """Digest of the graph to use, or None with a reason when one has to be exported."""
    if existing is not None:
        return _published_graph(plan, tools, existing.release, done)
    versions = tools.versions()
    reasons: list[str] = []
    for digest, manifest in _graphs_of(plan, checkpoint):
        arguments, changed = _graph_differences(plan, manifest, versions)
        if not arguments and not changed:
            return digest
        reasons.append("; ".join(arguments + changed))
    done.rebuild_reason = (
        reasons[-1] if reasons else f"there is no graph of checkpoint {checkpoint[:12]} yet"
    )
    return None


def _graphs_of(plan: Plan, checkpoint: str) -> list[tuple[str, Manifest]]:
    root = os.path.join(plan.store, "graph", plan.model)
    found: list[tuple[str, Manifest]] = []
    for digest in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        try:
            manifest = read_manifest(os.path.join(root, digest), digest)
        except (OSError, ArtefactError):
            continue
        if manifest.kind == "graph" and manifest.parents == (checkpoint,):
            found.append((digest, manifest))
    return found


def _published_graph(plan: Plan, tools: Tools, release: Release, done: Published) -> str | None:
    """The graph of a published version stays, also after an update of the tools: versions never change."""
    digest = release.graphs.get(plan.precision)
    if digest is None:
        raise PublishError(
            f"Release {plan.label} is already published without a graph of precision {plan.precision} "
            f"(it has {', '.join(sorted(release.graphs))}). Publish that precision under a new version."
        )
    folder = artefact_path(plan.store, "graph", plan.model, digest)
    try:
        manifest = read_manifest(folder, digest)
    except (OSError, ArtefactError):
        done.rebuild_reason = f"the graph {digest[:12]} of this release is not on this host"
        return None
    arguments, changed = _graph_differences(plan, manifest, tools.versions())
    if arguments:
        raise PublishError(
            f"Release {plan.label} is already published with another graph: {'; '.join(arguments)}. "
            "A published version never changes: publish under a new version."
        )
    if changed:
        done.warnings.append(
            f"Release {plan.label} keeps the graph it was published with, although tools changed since "
            f"({'; '.join(changed)}). Publish a new version to export it again."
        )
    return digest


# --- doing it -------------------------------------------------------------------------------------


def _predict(
    plan: Plan, manifest: Manifest, graph: str | None, existing: Existing | None, done: Published
) -> None:
    """Check mode: the same questions as the real run asks, without the answers being acted upon."""
    for kind, digest in (("checkpoint", manifest.digest), ("graph", graph)):
        if digest is None:
            done.did(f"export graph: {done.rebuild_reason}")
        else:
            problems = _problems(plan, kind, digest)
            if problems:
                done.did(f"write {kind} {digest[:12]}: {problems}")
    if graph is not None:
        done.release = Release(plan.model, plan.version, manifest.digest, {plan.precision: graph})
    if existing is None:
        done.did(f"write release {plan.label}")


def _problems(plan: Plan, kind: str, digest: str) -> str:
    folder = artefact_path(plan.store, kind, plan.model, digest)
    _unused_manifest, differences = verify_folder(
        folder, digest, plan.full, plan.public_key, (kind, plan.model)
    )
    return "; ".join(str(item) for item in differences[:5])


@contextlib.contextmanager
def _workspace(plan: Plan, kind: str) -> Iterator[str]:
    """A folder beside the final place, so that a rename is enough; hidden, so that it is not served."""
    parent = os.path.join(plan.store, kind, plan.model)
    ensure_folder(parent)
    for name in os.listdir(parent):
        if name.startswith(".publish-"):
            # Left by a publish that was interrupted: the lock says that nobody else is at work.
            shutil.rmtree(os.path.join(parent, name))
    path = tempfile.mkdtemp(prefix=".publish-", dir=parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _sign(plan: Plan, tools: Tools, folder: str, manifest: Manifest) -> None:
    tools.sign_folder(folder)
    try:
        verify_model_signature(
            plan.public_key, read_small(os.path.join(folder, SIGNATURE)), manifest
        )
    except (OSError, ArtefactError) as error:
        raise PublishError(
            f"The new signature of {manifest.kind} {manifest.digest[:12]} is not acceptable: {error}. "
            "Check that the release public key belongs to the signing key in the token."
        ) from error


def _finish(
    plan: Plan, tools: Tools, work: str, folder: str, manifest: Manifest, pieces: bytes
) -> None:
    """Complete a folder in the workspace with manifest, Metalink and signature, and give it its name."""
    write_file(os.path.join(folder, MANIFEST), manifest.to_bytes())
    write_file(os.path.join(folder, PIECES), pieces)
    _sign(plan, tools, folder, manifest)
    seal_folder(folder)
    _unused_manifest, problems = verify_folder(folder, manifest.digest, True, plan.public_key)
    if problems:
        raise PublishError(
            f"The {manifest.kind} changed while it was being published: {'; '.join(str(item) for item in problems[:5])}. "
            "Publish again when nothing writes to the checkpoint."
        )
    final = artefact_path(plan.store, manifest.kind, plan.model, manifest.digest)
    if os.path.lexists(final):
        # Damaged, else we would not be here. It leaves with the workspace.
        os.rename(final, os.path.join(work, "damaged"))
    os.rename(folder, final)
    sync_path(os.path.dirname(final))


def _publish_checkpoint(
    plan: Plan, tools: Tools, manifest: Manifest, pieces: bytes, done: Published
) -> None:
    if not _problems(plan, "checkpoint", manifest.digest):
        return
    _check_space(plan, manifest.size)
    with _workspace(plan, "checkpoint") as work:
        folder = os.path.join(work, manifest.digest)
        for path in manifest.files:
            clone_file(os.path.join(plan.checkpoint, path), os.path.join(folder, path))
        _finish(plan, tools, work, folder, manifest, pieces)
    done.did(f"wrote checkpoint {manifest.digest[:12]}")


def _check_space(plan: Plan, needed: int) -> None:
    free = shutil.disk_usage(plan.store).free
    if needed + SPACE_RESERVE > free:
        raise PublishError(
            f"{plan.store} has {free} bytes free, but {needed} are needed and {SPACE_RESERVE} must stay free. "
            "Remove releases that are no longer used, or give the store more space."
        )


def clone_file(source: str, target: str) -> None:
    """Copy a file, sharing its blocks where the file system can; never by hard link.

    A hard link would make the operator's own file read-only, and a later change to it would damage a
    published artefact.
    """
    ensure_folder(os.path.dirname(target))
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as reading, open(target, "xb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
        except OSError:
            shutil.copyfileobj(reading, writing, _COPY_BLOCK)


def _publish_graph(
    plan: Plan,
    tools: Tools,
    checkpoint: str,
    graph: str | None,
    existing: Existing | None,
    done: Published,
) -> str:
    if graph is not None:
        problems = _problems(plan, "graph", graph)
        if not problems:
            return graph
        # Also when only its signature is wrong: signing it again would vouch for bytes of unknown origin,
        # while the same export from a verified checkpoint gives the same bytes.
        done.rebuild_reason = f"the graph {graph[:12]} is damaged on this host: {problems}"
    with _workspace(plan, "graph") as work:
        # Export what was verified and stored, not a folder that others may write to.
        out = os.path.join(work, "out")
        tools.export(artefact_path(plan.store, "checkpoint", plan.model, checkpoint), out)
        manifest, pieces = _describe_graph(plan, tools, checkpoint, out)
        _refuse_other_graph(plan, manifest.digest, existing)
        folder = os.path.join(work, manifest.digest)
        os.rename(out, folder)
        _finish(plan, tools, work, folder, manifest, pieces)
    done.did(f"exported graph {manifest.digest[:12]}")
    return manifest.digest


def _describe_graph(plan: Plan, tools: Tools, checkpoint: str, out: str) -> tuple[Manifest, bytes]:
    files: dict[str, FileHash] = hash_files(out, list_folder(out))
    parameters: dict[str, Any] = {}
    if "export.json" in files:
        recorded = json.loads(read_small(os.path.join(out, "export.json")).decode("utf-8"))
        if isinstance(recorded, dict) and isinstance(recorded.get("parameters"), dict):
            parameters.update(recorded["parameters"])
    parameters["arguments"] = plan.arguments
    return describe(
        "graph",
        plan.model,
        files,
        plan.source,
        plan.licence,
        tools.versions(),
        parameters,
        (checkpoint,),
    )


def _refuse_other_graph(plan: Plan, digest: str, existing: Existing | None) -> None:
    expected = existing.release.graphs.get(plan.precision) if existing is not None else None
    if expected is not None and digest != expected:
        raise PublishError(
            f"The graph {expected[:12]} of release {plan.label} is damaged or missing on this host, and exporting it "
            f"again gave {digest[:12]}, since the tools are not the same. Bring it back from a storage host with "
            "model_replica, or publish under a new version."
        )


def _publish_release(plan: Plan, tools: Tools, release: Release) -> None:
    data = release.to_bytes()
    signature = encode_signature(tools.sign_data(data))
    try:
        verify_release_signature(plan.public_key, data, signature)
    except ArtefactError as error:
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
