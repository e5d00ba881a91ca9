"""TensorRT's builder, feature by feature: what a version lacks is not used, or refused by name.

One path for `tensorrt` 8.6, 10 and 11 and for `tensorrt_rtx`; strongly typed wherever that exists.
API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from deepseek_serving.artifacts.engines import Flavour
from deepseek_serving.compile.profiles import Profile
from deepseek_serving.compile.progress import Progress
from deepseek_serving.errors import BuildError
from deepseek_serving.runtime.tensorrt_plan import import_flavour

# Errors that a failed build repeats on every level; the first few say it.
MOST_ERRORS = 4


@dataclass(frozen=True)
class Options:
    """The builder's configuration; None leaves TensorRT's own default.

    `flags` are members of BuilderFlag by name, sorted; `timing_cache` is a file.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    flags: tuple[str, ...] = ()
    hardware_compatible: bool = False
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Job:
    """All that the compiler is given."""

    flavour: Flavour
    graph: Path
    profiles: Sequence[Profile]
    options: Options
    strongly_typed: bool
    compute_capability: str
    gpu_here: bool


@dataclass(frozen=True)
class Compiled:
    """The serialized engine (a buffer) and what is in it (JSON)."""

    plan: Any
    layers: str


def compile_engine(
    job: Job, log: TextIO, progress: Progress, load: Callable[[Flavour], Any] = import_flavour
) -> Compiled:
    """Build the engine.

    Raises BuildError with what TensorRT said, EngineError if it cannot be imported.
    """
    trt = load(job.flavour)
    logger = _logger(trt, log)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, job))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(job.graph)):
        raise BuildError(_parser_message(job.graph, parser))
    config = builder.create_builder_config()
    _configure(trt, config, job)
    _add_profiles(builder, config, job)
    cache = _timing_cache(config, job)
    # the configuration holds no reference of its own to the monitor
    monitor = _monitor(trt, progress)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(
            f"{job.graph}: {job.flavour} cannot build an engine for compute capability "
            f"{job.compute_capability}: {'; '.join(logger.errors[:MOST_ERRORS])}"
        )
    if cache is not None and job.options.timing_cache is not None:
        job.options.timing_cache.write_bytes(bytes(cache.serialize()))
    return Compiled(plan, _layers(trt, logger, plan, network, job))


# --- TensorRT's callbacks -------------------------------------------------------------------------


def _logger(trt: Any, log: TextIO) -> Any:
    """Writes every message to the log, and keeps the errors."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.INFO:
                log.write(f"[{severity.name}] {message}\n")
                log.flush()
            if severity <= trt.ILogger.ERROR:
                self.errors.append(" ".join(message.split()))

    return Logger()


def _monitor(trt: Any, progress: Progress) -> Any:
    """TensorRT 8.6 has no progress monitor."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            progress.start(name, steps)

        def step_complete(self, name: str, step: int) -> bool:
            progress.step(name, step)
            return True

        def phase_finish(self, name: str) -> None:
            progress.finish(name)

    return Monitor()


# --- configuration --------------------------------------------------------------------------------


def _network_flags(trt: Any, job: Job) -> int:
    known = trt.NetworkDefinitionCreationFlag.__members__
    # 8.6 has an implicit batch dimension unless told otherwise
    wanted = ["EXPLICIT_BATCH"] if not job.strongly_typed else ["STRONGLY_TYPED"]
    return sum(1 << int(known[name]) for name in wanted if name in known)


def _member(trt: Any, enumeration: str, name: str, job: Job) -> Any:
    members = getattr(getattr(trt, enumeration, None), "__members__", {})
    if name not in members:
        raise BuildError(
            f"{job.flavour} {trt.__version__} has no {enumeration}.{name} (it has "
            f"{', '.join(sorted(members)) or 'none'}); leave it out"
        )
    return members[name]


def _configure(trt: Any, config: Any, job: Job) -> None:
    options = job.options
    if hasattr(config, "set_compute_capability"):
        name = f"SM{job.compute_capability.replace('.', '')}"
        config.num_compute_capabilities = 1
        config.set_compute_capability(_member(trt, "ComputeCapability", name, job), 0)
    for flag in options.flags:
        config.set_flag(_member(trt, "BuilderFlag", flag, job))
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatible:
        level = _member(trt, "HardwareCompatibilityLevel", "AMPERE_PLUS", job)
        config.hardware_compatibility_level = level
    config.profiling_verbosity = _member(trt, "ProfilingVerbosity", "DETAILED", job)


def _add_profiles(builder: Any, config: Any, job: Job) -> None:
    for number, ranges in enumerate(job.profiles):
        profile = builder.create_optimization_profile()
        for name, shape in ranges.items():
            profile.set_shape(name, shape.min, shape.opt, shape.max)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(
                f"{job.flavour} refuses profile {number}: "
                + "; ".join(f"{name} {shape.record()}" for name, shape in ranges.items())
            )


def _timing_cache(config: Any, job: Job) -> Any:
    """Measurements of earlier builds; TensorRT-RTX compiles without measuring and has none."""
    path = job.options.timing_cache
    if path is None or job.flavour == "tensorrt_rtx":
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    # one of another version or GPU is refused, and this build begins an empty one
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


# --- what comes out -------------------------------------------------------------------------------


def _parser_message(graph: Path, parser: Any) -> str:
    said = []
    for index in range(min(parser.num_errors, MOST_ERRORS)):
        error = parser.get_error(index)
        # 8.6 knows the number of the node only
        name = error.node_name() if hasattr(error, "node_name") else f"number {error.node()}"
        operator = error.node_operator() if hasattr(error, "node_operator") else "unknown"
        place = f"node {name!r}, operator {operator}"
        said.append(f"{place}: {' '.join(error.desc().split())}")
    return f"{graph}: TensorRT's parser refuses it: " + "; ".join(said)


def _layers(trt: Any, logger: Any, plan: Any, network: Any, job: Job) -> str:
    """From the engine where it can be loaded, otherwise from the network that went into it."""
    if job.gpu_here:
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        if engine is not None:
            inspector = engine.create_engine_inspector()
            said = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
            return _json({"of": "engine", **json.loads(said)})
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return _json({"of": "network", "Layers": [_layer(layer) for layer in layers]})


def _layer(layer: Any) -> dict[str, Any]:
    def tensors(count: int, get: Callable[[int], Any]) -> list[dict[str, Any]]:
        # optional inputs that are not used are None
        found = [tensor for tensor in map(get, range(count)) if tensor is not None]
        return [{"Name": tensor.name, "Type": tensor.dtype.name} for tensor in found]

    return {
        "Name": layer.name,
        "LayerType": layer.type.name,
        "Inputs": tensors(layer.num_inputs, layer.get_input),
        "Outputs": tensors(layer.num_outputs, layer.get_output),
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
