"""From an engine in the store to an engine that runs: verified first, then loaded.

A plan is code. Its bytes are read once, hashed in memory, compared with the manifest that the
site's key has signed, and those very bytes are deserialised; nobody can change them in between.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import onnxruntime

from deepseek_serving.artifacts.engines import PlanFlavour
from deepseek_serving.artifacts.hashing import sha256_hex
from deepseek_serving.artifacts.manifest import SCHEMA, Manifest
from deepseek_serving.artifacts.names import MANIFEST, ArtifactError, artifact_path, check_digest
from deepseek_serving.errors import EngineError, VerificationError
from deepseek_serving.model_files.layout import KEY_FILE, OPTIMIZED_FILE, PLAN_FILE, RECORD_FILE
from deepseek_serving.runtime import Engine
from deepseek_serving.runtime.cuda import Gpu
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.runtime.onnxruntime_cuda import CudaEngine
from deepseek_serving.runtime.tensorrt_decoder import TensorRtEngine
from deepseek_serving.runtime.tensorrt_encoder import TensorRtEncoder
from deepseek_serving.runtime.tensorrt_plan import MODULES, import_flavour
from deepseek_serving.trust.release import (
    Release,
    read_file,
    read_manifest,
    read_pinned,
    verify_artifact,
)

Provider = Literal["cpu", "cuda"]
BUILD_HERE = "build the engine on this host, or for its GPU"


@dataclass(frozen=True)
class VerifiedEngine:
    """An engine that the site's key vouches for, made from a graph that it vouches for."""

    directory: Path
    key: Mapping[str, Any]
    manifest: Manifest
    record: Mapping[str, Any]

    @property
    def flavour(self) -> str:
        return str(self.key["tensorrt"]["flavour"])

    def plan(self) -> VerifiedPlan:
        """Its plan, read once; EngineError if engines of its flavour have none."""
        if self.flavour not in MODULES:
            raise EngineError(
                f"{self.directory / KEY_FILE}: an engine of flavour {self.flavour!r} has no plan; "
                f"TensorRT runs {' and '.join(MODULES)}"
            )
        plan = read_pinned(self.directory, self.manifest, PLAN_FILE)
        return VerifiedPlan(self.key, plan, self.record)


@dataclass(frozen=True)
class VerifiedPlan:
    """A plan that the site's key vouches for, made from a graph that it vouches for."""

    key: Mapping[str, Any]
    plan: bytes
    record: Mapping[str, Any]

    @property
    def flavour(self) -> PlanFlavour:
        return cast(PlanFlavour, self.key["tensorrt"]["flavour"])


def _fields(path: Path, data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise VerificationError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise VerificationError(f"{path}: not a JSON object of schema {SCHEMA}")
    return value


def _check_graph(directory: Path, key: Mapping[str, Any], graph: Manifest) -> None:
    """Every file of the graph that the key names is the release's."""
    named = key.get("graph")
    if not isinstance(named, dict) or not named:
        raise VerificationError(f"{directory / KEY_FILE}: names no graph")
    for name, sha256 in sorted(named.items()):
        entry = graph.files.get(name)
        signed = None if entry is None else entry.sha256
        if sha256 != signed:
            raise VerificationError(
                f"{directory / KEY_FILE}: the engine was built from a {name} with SHA-256 "
                f"{sha256}, the release has {signed}; build it from this release's graph"
            )


def verify_engine(store: Path, release: Release, key: str, public_key: Path) -> VerifiedEngine:
    """Check `<store>/engine/<model>/<key>` against its key, its signature and the release."""
    try:
        check_digest(key, "the key of the engine")
    except ArtifactError as error:
        raise VerificationError(str(error)) from error
    directory = Path(artifact_path(str(store), "engine", release.model, key))
    fields = read_file(directory / KEY_FILE)
    actual = sha256_hex(fields)
    if actual != key:
        raise VerificationError(
            f"{directory / KEY_FILE}: is the key of another engine, {actual}; pull the engine again"
        )
    manifest = verify_artifact(directory, public_key, expect=("engine", release.model))
    if manifest.parents != (release.digest,):
        raise VerificationError(
            f"{directory / MANIFEST}: parents is {list(manifest.parents)!r}, for {release.header} "
            f"it must be {[release.digest]!r}; build the engine from this release's graph"
        )
    # the file may have been changed since it was hashed above, but not to these bytes
    parsed = _fields(directory / KEY_FILE, fields)
    _check_graph(directory, parsed, read_manifest(release.graph, release.digest))
    if not isinstance(parsed.get("tensorrt"), dict):
        raise VerificationError(f"{directory / KEY_FILE}: names no flavour")
    record = _fields(release.graph / RECORD_FILE, read_file(release.graph / RECORD_FILE))
    return VerifiedEngine(directory, parsed, manifest, record)


def _refuse(what: str, built: object, here: object, remedy: str = BUILD_HERE) -> EngineError:
    return EngineError(f"the engine was built for {what} {built}, this host has {here}; {remedy}")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _check_platform(key: Mapping[str, Any], installed: str) -> None:
    here = f"{sys.platform}-{platform.machine()}"
    if key["platform"] != here:
        raise _refuse("platform", key["platform"], here)
    flavour, version = key["tensorrt"]["flavour"], key["tensorrt"]["version"]
    if installed != version:
        remedy = f"install {flavour} {version} here, or build the engine with {installed}"
        raise _refuse(flavour, version, installed, remedy)


def check_host(key: Mapping[str, Any], device: int) -> None:
    """EngineError unless this host runs engines of that key; asked before deserialising."""
    flavour = key["tensorrt"]["flavour"]
    _check_platform(key, import_flavour(flavour).__version__)
    gpu, target = Gpu(device), key["target"]
    capability, product = target["compute_capability"], target["product"]
    compatible = key["builder"].get("hardware_compatible", False)
    if capability is not None and capability != gpu.capability:
        newer = _version(gpu.capability) >= _version(capability)
        if not (compatible and newer):
            raise _refuse("compute capability", capability, f"{gpu.capability} ({gpu.name})")
    if product is not None and not compatible and product != gpu.name:
        raise _refuse("the GPU", product, gpu.name)


def load_optimized(
    engine: VerifiedEngine,
    graph: Path,
    *,
    threads: int = 0,
    slots: int | None = None,
    max_len: int | None = None,
) -> OnnxRuntimeEngine:
    """The engine of flavour onnxruntime: it is data, and its file was verified where it lies."""
    _check_platform(engine.key, onnxruntime.__version__)
    return OnnxRuntimeEngine(
        graph,
        threads=threads,
        slots=slots,
        max_len=max_len,
        optimized=engine.directory / OPTIMIZED_FILE,
    )


def load_decoder(
    plan: VerifiedPlan,
    *,
    device: int = 0,
    slots: int | None = None,
    max_len: int | None = None,
) -> TensorRtEngine:
    """The engine of a verified plan, if this host runs it."""
    check_host(plan.key, device)
    return TensorRtEngine(
        plan.plan, plan.record, flavour=plan.flavour, device=device, slots=slots, max_len=max_len
    )


def load_encoder(plan: VerifiedPlan, *, device: int = 0, streams: int = 1) -> TensorRtEncoder:
    """The text encoder of a verified plan, if this host runs it."""
    check_host(plan.key, device)
    return TensorRtEncoder(
        plan.plan, plan.record, flavour=plan.flavour, device=device, streams=streams
    )


def open_engine(
    release: Release,
    *,
    store: Path,
    public_key: Path,
    key: str | None,
    provider: Provider = "cpu",
    threads: int = 0,
    slots: int | None = None,
    max_len: int | None = None,
) -> Engine:
    """What runs a verified release: its graph by ONNX Runtime, or the engine with that key."""
    if provider == "cuda":
        if key is not None:
            raise EngineError(
                "engine.provider is cuda and engine.key names an engine of the store; the CUDA "
                "provider runs the release's graph itself: leave one of the two out"
            )
        return CudaEngine(release.graph, slots=slots, max_len=max_len)
    if key is None:
        return OnnxRuntimeEngine(release.graph, threads=threads, slots=slots, max_len=max_len)
    engine = verify_engine(store, release, key, public_key)
    if engine.flavour == "onnxruntime":
        return load_optimized(engine, release.graph, threads=threads, slots=slots, max_len=max_len)
    return load_decoder(engine.plan(), slots=slots, max_len=max_len)
