"""The calls of the CUDA runtime that an engine needs; each failure says what failed and why.

The package `cuda-bindings` is imported when a GPU is asked for, and not before: hosts without one
need not have it.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_serving.errors import EngineError

OUT_OF_MEMORY = "cudaErrorMemoryAllocation"
# what TensorRT asks of the address of every tensor
ALIGNMENT = 256
# tensors that lie behind each other in one block: shape and type of each
Layout = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
MISSING = (
    "the Python package cuda-bindings is not installed, which a GPU needs; install the extra "
    "deepseek-serving[tensorrt]"
)


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def layout_size(layout: Layout) -> int:
    return sum(aligned(math.prod(shape) * kind.itemsize) for shape, kind in layout.values())


class CudaError(EngineError):
    """A call of the CUDA runtime failed."""

    def __init__(self, call: str, name: str, message: str) -> None:
        super().__init__(f"CUDA: {call}: {message} ({name})")
        self.name = name


@dataclass(frozen=True, eq=False)
class Memory:
    """Device memory, freed with the object."""

    address: int
    size: int


class Pinned:
    """Host memory that the GPU reads and writes by itself, freed with the object."""

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        # views keep it, so that the memory is freed after the last of them
        self.block = (ctypes.c_uint8 * size).from_address(address)
        self.bytes = np.ctypeslib.as_array(self.block)

    def view(self, offset: int, shape: Sequence[int], kind: np.dtype[Any]) -> npt.NDArray[Any]:
        size = math.prod(shape) * kind.itemsize
        view: npt.NDArray[Any] = self.bytes[offset : offset + size].view(kind).reshape(shape)
        return view


class Gpu:
    """One device, as the calling thread uses it."""

    def __init__(self, device: int = 0) -> None:
        try:
            self._cuda = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise EngineError(f"{MISSING} ({error})") from error
        self.device = device
        count = self.call("cudaGetDeviceCount")
        if not 0 <= device < count:
            raise EngineError(f"there is no GPU {device}; this host has {count}, counted from 0")
        properties = self.call("cudaGetDeviceProperties", device)
        name = properties.name
        self.name = (name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0")
        self.capability = f"{properties.major}.{properties.minor}"
        self.use()

    def call(self, name: str, *arguments: Any) -> Any:
        """The value of a call; CudaError unless it succeeded."""
        code, *values = getattr(self._cuda, name)(*arguments)
        if code != self._cuda.cudaError_t.cudaSuccess:
            # what is remembered would fail the next call too
            self._cuda.cudaGetLastError()
            text = self._cuda.cudaGetErrorString(code)[1]
            message = text.decode() if isinstance(text, bytes) else str(text)
            raise CudaError(name, code.name, message)
        return values[0] if len(values) == 1 else tuple(values)

    def use(self) -> None:
        """Make it the device of the calling thread, since the current one is each thread's own."""
        self.call("cudaSetDevice", self.device)

    def free_bytes(self) -> int:
        free, _total = self.call("cudaMemGetInfo")
        return int(free)

    def _release(self, name: str, *arguments: Any) -> None:
        """For finalizers: what cannot be freed any more is gone with the device's context."""
        getattr(self._cuda, name)(*arguments)

    def _owned(self, owner: object, name: str, *arguments: Any) -> None:
        weakref.finalize(owner, self._release, name, *arguments).atexit = False

    def allocate(self, size: int, purpose: str, remedy: str) -> Memory:
        """Device memory filled with zeros."""
        size = max(size, 1)
        try:
            address = int(self.call("cudaMalloc", size))
        except CudaError as error:
            if error.name != OUT_OF_MEMORY:
                raise
            raise EngineError(
                f"GPU {self.device} ({self.name}) has no room for {purpose}: {size} bytes are "
                f"needed, {self.free_bytes()} are free; {remedy}"
            ) from error
        memory = Memory(address, size)
        self._owned(memory, "cudaFree", address)
        self.call("cudaMemset", address, 0, size)
        return memory

    def pinned(self, size: int) -> Pinned:
        address = int(self.call("cudaMallocHost", max(size, 1)))
        memory = Pinned(address, max(size, 1))
        self._owned(memory.block, "cudaFreeHost", address)
        memory.bytes[:] = 0
        return memory

    def stream(self, *, urgent: bool) -> Stream:
        """Work on an urgent stream is started before waiting work on the others."""
        least, greatest = self.call("cudaDeviceGetStreamPriorityRange")
        flags = self._cuda.cudaStreamNonBlocking
        handle = self.call("cudaStreamCreateWithPriority", flags, greatest if urgent else least)
        stream = Stream(self, handle)
        self._owned(stream, "cudaStreamDestroy", handle)
        return stream


class Stream:
    """Work in its order on one GPU."""

    def __init__(self, gpu: Gpu, handle: Any) -> None:
        self._gpu = gpu
        self._stream = handle
        self.handle = int(handle)
        kinds = gpu._cuda.cudaMemcpyKind
        self._upwards = kinds.cudaMemcpyHostToDevice
        self._downwards = kinds.cudaMemcpyDeviceToHost
        self._capture_mode = gpu._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal

    def to_device(self, target: int, source: int, size: int) -> None:
        self._gpu.call("cudaMemcpyAsync", target, source, size, self._upwards, self._stream)

    def to_host(self, target: int, source: int, size: int) -> None:
        self._gpu.call("cudaMemcpyAsync", target, source, size, self._downwards, self._stream)

    def clear(self, memory: Memory, first: int = 0, size: int | None = None) -> None:
        """Zeros in all of it, or in `size` bytes from `first` on."""
        size = memory.size if size is None else size
        self._gpu.call("cudaMemsetAsync", memory.address + first, 0, size, self._stream)

    def synchronize(self) -> None:
        self._gpu.call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Graph:
        """What `work` puts on the stream, as a graph; EngineError if it cannot be captured."""
        gpu = self._gpu
        gpu.call("cudaStreamBeginCapture", self._stream, self._capture_mode)
        try:
            work()
        except EngineError:
            # the stream stays in capture until it is ended, whatever that returns then
            gpu._release("cudaStreamEndCapture", self._stream)
            gpu._release("cudaGetLastError")
            raise
        captured = gpu.call("cudaStreamEndCapture", self._stream)
        try:
            executable = gpu.call("cudaGraphInstantiate", captured, 0)
        finally:
            gpu.call("cudaGraphDestroy", captured)
        graph = Graph(self, executable)
        gpu._owned(graph, "cudaGraphExecDestroy", executable)
        return graph

    def launch(self, executable: Any) -> None:
        self._gpu.call("cudaGraphLaunch", executable, self._stream)


@dataclass(frozen=True, eq=False)
class Graph:
    """Captured work, which is started as a whole."""

    stream: Stream
    executable: Any

    def launch(self) -> None:
        self.stream.launch(self.executable)
