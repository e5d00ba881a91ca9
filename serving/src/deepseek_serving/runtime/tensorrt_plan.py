"""A TensorRT or TensorRT-RTX plan, deserialised on one GPU and checked against its graph's record.

Which methods a TensorRT has is asked of the library: 8.6, 10, 11 and TensorRT-RTX differ in how
memory is given to a context, and in little else that is used here.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deepseek_serving.errors import EngineError
from deepseek_serving.runtime.cuda import Gpu, Memory

logger = logging.getLogger(__name__)

MODULES: Mapping[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
INTEGERS: Mapping[str, np.dtype[Any]] = {
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
}
FLOATS: Mapping[str, np.dtype[Any]] = {"FLOAT": np.dtype(np.float32)}
# parts of TensorRT's messages, and what helps
REMEDIES: Mapping[str, str] = {
    "expecting compute": "build the engine for this GPU",
    "compute capability": "build the engine for this GPU",
    "incompatible device": "build the engine for this GPU",
    "version": "build the engine with the TensorRT that is installed here",
    "cudaerror 35": "this host has no working NVIDIA driver, or no GPU",
    "cudaerror 100": "this host has no GPU",
    "initialization failure": "this host has no working NVIDIA driver, or no GPU",
    "memory": "free memory of the GPU",
}


def import_flavour(flavour: str) -> Any:
    """The Python module of TensorRT or TensorRT-RTX."""
    if flavour not in MODULES:
        raise EngineError(f"{flavour!r} is not a flavour of TensorRT; known: {', '.join(MODULES)}")
    failures = []
    for name in MODULES[flavour]:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            failures.append(f"{name}: {error}")
    raise EngineError(
        f"{flavour} cannot be imported ({'; '.join(failures)}); install the version that the "
        "engine was built with"
    )


class Messages:
    """What TensorRT says: warnings go to the log, errors also into the EngineError."""

    def __init__(self, trt: Any) -> None:
        self._errors: list[str] = []
        collect = self._collect

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                collect(severity.name, message)

        self.logger = Logger()

    def _collect(self, severity: str, message: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._errors.append(message.strip())
        elif severity == "WARNING":
            logger.warning("TensorRT: %s", message.strip())

    def error(self, what: str, cause: object = None) -> EngineError:
        """With all that TensorRT said since the last time."""
        said = " | ".join([*self._errors, *([str(cause)] if cause else [])])
        self._errors.clear()
        lowered = said.lower()
        remedies = [remedy for part, remedy in REMEDIES.items() if part in lowered]
        return EngineError(
            f"{what}: {said or 'TensorRT gave no reason'}"
            + (f"; {remedies[0]}" if remedies else "")
        )


@dataclass(frozen=True)
class ExpectedTensor:
    """A tensor as the record of the graph describes it; None is a free dimension."""

    mode: Literal["INPUT", "OUTPUT"]
    types: tuple[str, ...]
    shape: tuple[int | None, ...]
    optional: bool = False


class Plan:
    """A deserialised plan on one GPU.

    `engine_host_code_allowed` stays off: a plan may not carry code for the host.
    """

    def __init__(self, plan: bytes, flavour: str, device: int) -> None:
        self.trt = import_flavour(flavour)
        self.gpu = Gpu(device)
        self.messages = Messages(self.trt)
        self.label = f"{flavour} {self.trt.__version__} on GPU {device} ({self.gpu.name})"
        try:
            self._runtime = self.trt.Runtime(self.messages.logger)
            self.engine = self._runtime.deserialize_cuda_engine(plan)
        except (RuntimeError, TypeError) as error:
            raise self.messages.error(f"{self.label} cannot start", error) from error
        if self.engine is None:
            raise self.messages.error(f"{self.label} does not load this plan")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        self.tensors: dict[str, tuple[str, str, tuple[int, ...]]] = {
            name: (
                self.engine.get_tensor_mode(name).name,
                self.engine.get_tensor_dtype(name).name,
                tuple(self.engine.get_tensor_shape(name)),
            )
            for name in names
        }

    def check(self, expected: Mapping[str, ExpectedTensor]) -> None:
        """EngineError names every tensor that is not as the graph's record says."""
        wrong = [f"{name} is not in the record" for name in self.tensors if name not in expected]
        for name, tensor in expected.items():
            if name in self.tensors:
                wrong += _difference(name, self.tensors[name], tensor)
            elif not tensor.optional:
                wrong.append(f"{name} is missing")
        if wrong:
            raise EngineError(
                "the plan does not belong to the graph's export.json: "
                + "; ".join(wrong)
                + "; build it again from this graph"
            )

    def dtype(self, name: str) -> np.dtype[Any]:
        return {**INTEGERS, **FLOATS}[self.tensors[name][1]]

    def limits(self, name: str, profile: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The smallest and the largest shape that a profile takes."""
        least, _usual, most = self.engine.get_tensor_profile_shape(name, profile)
        return tuple(least), tuple(most)

    def scratch(self, purpose: str) -> Memory:
        """Memory for what a step computes on its way, as much as any profile needs."""
        engine = self.engine
        newer = hasattr(engine, "device_memory_size_v2")
        size = engine.device_memory_size_v2 if newer else engine.device_memory_size
        return self.gpu.allocate(int(size), purpose, "free the GPU or build for smaller batches")

    def context(self, profile: int, scratch: Memory, stream: int) -> Any:
        """An execution context for a profile that computes in memory which it shares."""
        if hasattr(self.trt, "ExecutionContextAllocationStrategy"):
            strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self.engine.create_execution_context(strategy)
        else:
            context = self.engine.create_execution_context_without_device_memory()
        if context is None:
            raise self.messages.error(f"{self.label} has no execution context")
        if not context.set_optimization_profile_async(profile, stream):
            raise self.messages.error(f"{self.label} refuses optimization profile {profile}")
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(scratch.address, scratch.size)
        else:
            context.device_memory = scratch.address
        return context


def _difference(
    name: str, found: tuple[str, str, tuple[int, ...]], expected: ExpectedTensor
) -> Iterator[str]:
    mode, kind, shape = found
    if mode != expected.mode:
        yield f"{name} is an {mode.lower()}"
    if kind not in expected.types:
        yield f"{name} is {kind}, not {' or '.join(expected.types)}"
    same = len(shape) == len(expected.shape) and all(
        wanted is None or size == wanted for size, wanted in zip(shape, expected.shape, strict=True)
    )
    if not same:
        wanted = [-1 if size is None else size for size in expected.shape]
        yield f"{name} has the shape {list(shape)}, not {wanted}"
