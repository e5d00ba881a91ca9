"""A GPU in host memory, at the boundary where the runtime calls TensorRT and CUDA.

Device memory is host memory, and a plan is the name of an ONNX graph, which ONNX Runtime runs over
the very addresses that were set. Work on a stream is done when somebody waits for it and not
before, so that code that forgets to wait reads what was there earlier. Work that is captured is not
done at all until its graph is launched, and then with what is in memory at that time.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

VERSION = "8.6.0"
NUMPY_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT32": np.int32,
    "INT64": np.int64,
}
ONNX_TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT64: "INT64",
}
GIBIBYTE = 2**30

Code = enum.IntEnum(
    "Code",
    {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2, "cudaErrorStreamCaptureUnsupported": 900},
)
Copy = enum.IntEnum("Copy", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
CaptureMode = enum.IntEnum("CaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})
Mode = enum.Enum("Mode", ["INPUT", "OUTPUT"])
DataType = enum.Enum("DataType", ["FLOAT", "HALF", "BF16", "INT32", "INT64"])
Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO"])


@dataclass
class FakeStream:
    """Work that waits."""

    number: int
    priority: int
    waiting: list[Callable[[], None]] = field(default_factory=list)
    captured: list[Callable[[], None]] | None = None

    def __int__(self) -> int:
        return self.number

    def put(self, work: Callable[[], None]) -> None:
        (self.waiting if self.captured is None else self.captured).append(work)


@dataclass
class FakeGpu:
    """The device behind both modules; tests set what it is, and read what was done."""

    name: str = "NVIDIA A100-SXM4-80GB"
    capability: tuple[int, int] = (8, 0)
    count: int = 1
    free: int = GIBIBYTE
    capture: bool = True
    priorities: tuple[int, int] = (0, -5)
    streams: dict[int, FakeStream] = field(default_factory=dict)
    memory: dict[int, Any] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    device: int | None = None
    launches: int = 0
    executions: int = 0
    host_code: list[bool] = field(default_factory=list)

    def take(self, size: int) -> int:
        """Memory that holds anything but zeros, at an aligned address."""
        block = (ctypes.c_uint8 * (size + 256))(*([0xFF] * min(size, 4096)))
        address = -(-ctypes.addressof(block) // 256) * 256
        self.memory[address], self.sizes[address] = block, size
        return address

    # --- the calls of cuda.bindings.runtime; each returns its code first --------------------------

    def malloc(self, size: int) -> tuple[Code, int | None]:
        if size > self.free:
            return Code.cudaErrorMemoryAllocation, None
        self.free -= size
        return Code.cudaSuccess, self.take(size)

    def free_memory(self, address: int) -> tuple[Code]:
        del self.memory[address]
        self.free += self.sizes.pop(address)
        return (Code.cudaSuccess,)

    def malloc_host(self, size: int) -> tuple[Code, int]:
        return Code.cudaSuccess, self.take(size)

    def free_host(self, address: int) -> tuple[Code]:
        del self.memory[address], self.sizes[address]
        return (Code.cudaSuccess,)

    def memset(self, address: int, value: int, size: int) -> tuple[Code]:
        assert size <= self.sizes[address]
        ctypes.memset(address, value, size)
        return (Code.cudaSuccess,)

    def memset_async(self, address: int, value: int, size: int, stream: FakeStream) -> tuple[Code]:
        stream.put(lambda: void(ctypes.memset(address, value, size)))
        return (Code.cudaSuccess,)

    def memcpy_async(
        self, target: int, source: int, size: int, kind: Copy, stream: FakeStream
    ) -> tuple[Code]:
        assert kind in Copy
        stream.put(lambda: void(ctypes.memmove(target, source, size)))
        return (Code.cudaSuccess,)

    def create_stream(self, _flags: int, priority: int) -> tuple[Code, FakeStream]:
        stream = FakeStream(len(self.streams) + 1, priority)
        self.streams[stream.number] = stream
        return Code.cudaSuccess, stream

    def synchronize(self, stream: FakeStream) -> tuple[Code]:
        assert self.device is not None, "cudaSetDevice comes first in every thread"
        waiting, stream.waiting = stream.waiting, []
        for work in waiting:
            work()
        return (Code.cudaSuccess,)

    def begin_capture(self, stream: FakeStream, _mode: CaptureMode) -> tuple[Code]:
        stream.captured = []
        return (Code.cudaSuccess,)

    def end_capture(self, stream: FakeStream) -> tuple[Code, Any]:
        captured, stream.captured = stream.captured, None
        if not self.capture:
            return Code.cudaErrorStreamCaptureUnsupported, None
        return Code.cudaSuccess, captured

    def launch(self, graph: list[Callable[[], None]], stream: FakeStream) -> tuple[Code]:
        self.launches += 1
        stream.waiting += graph
        return (Code.cudaSuccess,)

    def set_device(self, device: int) -> tuple[Code]:
        self.device = device
        return (Code.cudaSuccess,)

    def properties(self, _device: int) -> tuple[Code, Any]:
        major, minor = self.capability
        return Code.cudaSuccess, SimpleNamespace(
            name=self.name.encode() + b"\0", major=major, minor=minor
        )

    def install(self, monkeypatch: pytest.MonkeyPatch, flavour: str = "tensorrt") -> None:
        """Take the place of both modules, as the runtime imports them."""
        cuda = ModuleType("cuda.bindings.runtime")
        done: tuple[Code] = (Code.cudaSuccess,)
        calls: dict[str, Any] = {
            "cudaError_t": Code,
            "cudaMemcpyKind": Copy,
            "cudaStreamCaptureMode": CaptureMode,
            "cudaStreamNonBlocking": 1,
            "cudaGetDeviceCount": lambda: (Code.cudaSuccess, self.count),
            "cudaGetDeviceProperties": self.properties,
            "cudaSetDevice": self.set_device,
            "cudaMemGetInfo": lambda: (Code.cudaSuccess, self.free, 2 * GIBIBYTE),
            "cudaGetLastError": lambda: done,
            "cudaGetErrorString": lambda code: (Code.cudaSuccess, f"text of {code.name}".encode()),
            "cudaMalloc": self.malloc,
            "cudaFree": self.free_memory,
            "cudaMallocHost": self.malloc_host,
            "cudaFreeHost": self.free_host,
            "cudaMemset": self.memset,
            "cudaMemsetAsync": self.memset_async,
            "cudaMemcpyAsync": self.memcpy_async,
            "cudaDeviceGetStreamPriorityRange": lambda: (Code.cudaSuccess, *self.priorities),
            "cudaStreamCreateWithPriority": self.create_stream,
            "cudaStreamDestroy": lambda _stream: done,
            "cudaStreamSynchronize": self.synchronize,
            "cudaStreamBeginCapture": self.begin_capture,
            "cudaStreamEndCapture": self.end_capture,
            "cudaGraphInstantiate": lambda graph, _flags: (Code.cudaSuccess, graph),
            "cudaGraphDestroy": lambda _graph: done,
            "cudaGraphExecDestroy": lambda _graph: done,
            "cudaGraphLaunch": self.launch,
        }
        for name, value in calls.items():
            setattr(cuda, name, value)
        trt = ModuleType(flavour)
        contents: dict[str, Any] = {
            "__version__": VERSION,
            "ILogger": FakeLogger,
            "Runtime": lambda log: FakeRuntime(self, log),
        }
        for name, value in contents.items():
            setattr(trt, name, value)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
        monkeypatch.setitem(sys.modules, flavour, trt)


def void(_value: object) -> None:
    """For calls whose result nobody reads."""


class FakeLogger:
    """What a logger of TensorRT's derives from."""

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


def write_plan(graph: Path, profiles: Sequence[dict[str, Any]], **changes: Any) -> bytes:
    """A plan for the fake: the graph, its profiles, and what an engine may be like.

    `integers` INT32 is what TensorRT before 10 makes of INT64; `aliased` is whether the engine can
    say that its cache is updated in place.
    """
    facts = {"graph": str(graph), "profiles": list(profiles), "integers": "INT64", "fixed": {}}
    return json.dumps({**facts, **changes}).encode()


class FakeRuntime:
    """Deserialises, and notes whether plans may carry code."""

    def __init__(self, gpu: FakeGpu, log: FakeLogger) -> None:
        self._gpu, self._log = gpu, log
        gpu.host_code.append(False)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "engine_host_code_allowed":
            self._gpu.host_code[-1] = value
        super().__setattr__(name, value)

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        facts = json.loads(plan)
        if "error" in facts:
            self._log.log(Severity.WARNING, "a warning before")
            self._log.log(Severity.ERROR, facts["error"])
            return None
        return FakeEngine(self._gpu, self._log, facts)


class FakeEngine:
    """The tensors of an ONNX graph, as TensorRT shows them."""

    device_memory_size = 12345

    def __init__(self, gpu: FakeGpu, log: FakeLogger, facts: dict[str, Any]) -> None:
        self.gpu, self.log, self.facts = gpu, log, facts
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(
            facts["graph"], options, providers=["CPUExecutionProvider"]
        )
        graph = onnx.load(facts["graph"], load_external_data=False).graph
        self.tensors = {
            value.name: (mode, value.type.tensor_type)
            for mode, values in ((Mode.INPUT, graph.input), (Mode.OUTPUT, graph.output))
            for value in values
        }
        self.names = list(self.tensors)
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(facts["profiles"])
        if facts.get("aliased") is not None:
            self.get_aliased_input_tensor = self._aliased

    def _aliased(self, name: str) -> str | None:
        return str(name).replace("present_", "past_") if self.facts["aliased"] else None

    def get_tensor_name(self, index: int) -> Any:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        kind = ONNX_TYPES[self.tensors[name][1].elem_type]
        return DataType[self.facts["integers"] if kind == "INT64" else kind]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        fixed = self.facts["fixed"]
        return tuple(
            dim.dim_value or fixed.get(dim.dim_param, -1) for dim in self.tensors[name][1].shape.dim
        )

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        shapes: list[list[int]] = self.facts["profiles"][profile][name]
        return shapes

    def create_execution_context_without_device_memory(self) -> FakeContext:
        return FakeContext(self)


class FakeContext:
    """Runs the graph over the addresses that it was given."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.device_memory = 0
        self.profile = -1

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream in self.engine.gpu.streams
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        limits = self.engine.facts["profiles"][self.profile].get(name)
        if limits is not None:
            least, _usual, most = limits
            inside = all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
            if not inside:
                self.engine.log.log(Severity.ERROR, f"{name}: {list(shape)} is out of profile")
                return False
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        engine = self.engine
        assert self.device_memory in engine.gpu.memory
        assert set(self.addresses) == set(engine.names)
        if engine.facts.get("fails"):
            engine.log.log(Severity.ERROR, "the step broke")
            return False
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        engine.gpu.executions += 1
        engine.gpu.streams[stream].put(lambda: run(engine, shapes, addresses))
        return True


def at(address: int, shape: Sequence[int], kind: str) -> Any:
    """An array over memory that was given out before."""
    size = math.prod(shape) * np.dtype(NUMPY_TYPES[kind]).itemsize
    block = (ctypes.c_uint8 * size).from_address(address)
    dtype: np.dtype[Any] = np.dtype(NUMPY_TYPES[kind])
    return np.ndarray(shape, dtype=dtype, buffer=memoryview(block))


def run(engine: FakeEngine, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
    """One execution: in place where input and output have the same address."""
    binding = engine.session.io_binding()
    held: list[Any] = []
    copied: dict[str, Any] = {}
    batch, width = shapes["input_ids"]
    sizes = {"batch": batch, "sequence": width, **engine.facts["fixed"]}
    for name, address in addresses.items():
        mode, tensor = engine.tensors[name]
        wanted, kind = ONNX_TYPES[tensor.elem_type], engine.get_tensor_dtype(name).name
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in tensor.shape.dim]
        array = at(address, shape, kind)
        if kind != wanted:
            copied[name] = array
            array = array.astype(NUMPY_TYPES[wanted])
        held.append(array)
        bind = binding.bind_input if mode is Mode.INPUT else binding.bind_output
        bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        if mode is Mode.OUTPUT and name in copied:
            copied[name] = (copied[name], array)
    engine.session.run_with_iobinding(binding)
    for pair in copied.values():
        if isinstance(pair, tuple):
            pair[0][...] = pair[1]
