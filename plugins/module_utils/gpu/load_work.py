# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one GPU computes and copies under load, and how fast: by NVIDIA's libraries alone.

The kernels are CUDA C, compiled for the GPU that is there by NVRTC; the matrix product is cuBLAS's.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from glob import glob
from typing import Any

Result = dict[str, Any]
KERNELS = r"""
typedef unsigned long long u64;

// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
__device__ u64 mix(u64 value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

__device__ u64 first() { return blockIdx.x * (u64)blockDim.x + threadIdx.x; }
__device__ u64 step() { return gridDim.x * (u64)blockDim.x; }

// The sum of four uniform 16-bit numbers, moved to mean 0 and deviation 1: near enough to a normal distribution.
__device__ u64 number(u64 bits) {
  float sum = 0.0f;
  for (int part = 0; part < 4; part++) sum += (float)((bits >> (16 * part)) & 0xffff);
  return __float_as_uint((sum - 131070.0f) / 37837.0f) >> 16;
}

// Words of four bf16 numbers each.
extern "C" __global__ void fill(u64 *data, u64 words, u64 seed) {
  for (u64 i = first(); i < words; i += step()) {
    u64 word = 0;
    for (int part = 0; part < 4; part++) word |= number(mix(seed + 4 * i + part)) << (16 * part);
    data[i] = word;
  }
}

// Added up as integers, so that the order of the threads does not matter; every word counts with its place.
extern "C" __global__ void checksum(const u64 *data, u64 words, u64 *sum) {
  u64 mine = 0;
  for (u64 i = first(); i < words; i += step()) mine += mix(data[i] + i * 0x9e3779b97f4a7c15ULL);
  for (int lane = 16; lane; lane /= 2) mine += __shfl_down_sync(0xffffffff, mine, lane);
  if (threadIdx.x % 32 == 0) atomicAdd(sum, mine);
}

__device__ float of(const unsigned short *data, u64 i) { return __uint_as_float((unsigned)data[i] << 16); }

// One element of the product for each warp, without tensor cores. Matrices are column by column. bf16 has 8 bits of precision.
extern "C" __global__ void inspect(const unsigned short *a, const unsigned short *b, const unsigned short *c, u64 n, u64 *wrong) {
  u64 place = mix(first() / 32 + 1);
  u64 row = place % n, column = (place >> 32) % n;
  float sum = 0.0f;
  for (u64 k = threadIdx.x % 32; k < n; k += 32) sum += of(a, k * n + row) * of(b, column * n + k);
  for (int lane = 16; lane; lane /= 2) sum += __shfl_down_sync(0xffffffff, sum, lane);
  float distance = fabsf(of(c, column * n + row) - sum);
  if (threadIdx.x % 32 == 0 && !(distance <= 0.01f * fabsf(sum) + 0.01f * sqrtf((float)n))) atomicAdd(wrong, 1ULL);
}
"""
THREADS = 256
BLOCKS = 4096
# Elements of the first product that are computed in another way.
INSPECTED = BLOCKS * THREADS // 32
WORD = 8
# Products between two looks at the clock; two of them warm up.
BATCH = 16
HOST_BYTES = 256 * 2**20
# cublas_api.h and library_types.h
_BF16 = 14
_COMPUTE_32F = 68
_DEFAULT_ALGORITHM = -1
_PLAIN = 0


class LoadError(Exception):
    """A call failed, with the library's own words; ``remedy`` is empty where those do not say what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class MissingError(Exception):
    """A library is not there."""


class Libraries:
    """NVIDIA's libraries: the driver and NVRTC by their bindings, and cuBLAS, which has none in them."""

    def __init__(self) -> None:
        try:
            bindings = importlib.import_module("cuda.bindings")
            self._driver = importlib.import_module("cuda.bindings.driver")
            major = bindings.__version__.partition(".")[0]
            # loaded before its binding looks for it, which knows no directories but those of its environment
            _shared("nvrtc", major)
            self._nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        except ImportError as error:
            raise MissingError(f"cuda-bindings cannot be imported: {error}") from error
        self.blas = _shared("cublas", major)

    def driver(self, name: str, *arguments: Any) -> Any:
        """What a call of the driver gives; raises LoadError."""
        return _value(name, getattr(self._driver, name)(*arguments))

    def nvrtc(self, name: str, *arguments: Any) -> Any:
        """What a call of NVRTC gives; raises LoadError."""
        return _value(name, getattr(self._nvrtc, name)(*arguments))

    def attribute(self, number: int) -> Any:
        """A member of the driver's enumeration CUdevice_attribute."""
        return self._driver.CUdevice_attribute(number)

    def compiled(self, architecture: str) -> bytes:
        """The kernels as machine code: a driver that is older than NVRTC can load that, and not PTX."""
        program = self.nvrtc("nvrtcCreateProgram", KERNELS.encode(), b"burn_in.cu", 0, [], [])
        option = f"--gpu-architecture={architecture}".encode()
        try:
            self.nvrtc("nvrtcCompileProgram", program, 1, [option])
        except LoadError as error:
            log = b" " * self.nvrtc("nvrtcGetProgramLogSize", program)
            self.nvrtc("nvrtcGetProgramLog", program, log)
            raise LoadError(f"{error}, for {architecture}: {log.decode().strip()}") from error
        code: bytes = b" " * self.nvrtc("nvrtcGetCUBINSize", program)
        self.nvrtc("nvrtcGetCUBIN", program, code)
        return code


def _value(name: str, answer: tuple[Any, ...]) -> Any:
    """What stands behind the result code of a call: nothing, a value, or several."""
    code, *values = answer
    if int(code):
        raise LoadError(f"{name}: {code.name}")
    return values[0] if len(values) == 1 else tuple(values)


def _shared(name: str, major: str) -> Any:
    """A library of NVIDIA's wheels, or of the system."""
    file = f"lib{name}.so.{major}"
    found = [
        path
        for directory in sys.path
        for path in sorted(glob(os.path.join(directory, "nvidia", "*", "lib", file)))
    ]
    try:
        return ctypes.CDLL(found[0] if found else file, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise MissingError(f"{file} cannot be loaded: {error}") from error


class Gpu:
    """One GPU with the kernels and cuBLAS loaded, as the only one that this process sees."""

    def __init__(self, libraries: Libraries, uuid: str) -> None:
        self._libraries = libraries
        os.environ["CUDA_VISIBLE_DEVICES"] = uuid
        call = libraries.driver
        call("cuInit", 0)
        device = call("cuDeviceGet", 0)
        call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", device))
        # CUdevice_attribute: 16 is the number of multiprocessors, 75 and 76 are the compute capability
        self.multiprocessors, major, minor = (
            int(call("cuDeviceGetAttribute", libraries.attribute(number), device))
            for number in (16, 75, 76)
        )
        self._stream = call("cuStreamCreate", 1)
        module = call("cuModuleLoadData", libraries.compiled(f"sm_{major}{minor}"))
        self._kernels = {
            name: call("cuModuleGetFunction", module, name.encode())
            for name in ("fill", "checksum", "inspect")
        }
        self._blas = ctypes.c_void_p()
        self.blas("cublasCreate_v2", ctypes.byref(self._blas))
        self.blas("cublasSetStream_v2", self._blas, ctypes.c_void_p(int(self._stream)))
        version = ctypes.c_int()
        self.blas("cublasGetVersion_v2", self._blas, ctypes.byref(version))
        self.blas_version = version.value

    def blas(self, name: str, *arguments: Any) -> None:
        """Call cuBLAS; raises LoadError."""
        status = getattr(self._libraries.blas, name)(*arguments)
        if status:
            raise LoadError(f"{name}: status {status}")

    def call(self, name: str, *arguments: Any) -> Any:
        return self._libraries.driver(name, *arguments)

    def free_bytes(self) -> int:
        free, _total = self.call("cuMemGetInfo")
        return int(free)

    @contextmanager
    def memory(self, size: int) -> Iterator[int]:
        """Memory of the GPU, by its address."""
        address = self.call("cuMemAlloc", size)
        try:
            yield int(address)
        finally:
            self.call("cuMemFree", address)

    @contextmanager
    def pinned(self, size: int) -> Iterator[int]:
        """Memory of the host that the GPU reads and writes by itself."""
        address = self.call("cuMemAllocHost", size)
        try:
            yield int(address)
        finally:
            self.call("cuMemFreeHost", address)

    def launch(self, kernel: str, *arguments: int, blocks: int = BLOCKS) -> None:
        """Start a kernel whose parameters are 64-bit numbers and addresses."""
        values = [ctypes.c_uint64(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        grid = (blocks, 1, 1, THREADS, 1, 1)
        where = ctypes.addressof(pointers)
        self.call("cuLaunchKernel", self._kernels[kernel], *grid, 0, self._stream, where, 0)

    def copy(self, kind: str, target: int, source: int, size: int) -> None:
        self.call(f"cuMemcpy{kind}Async", target, source, size, self._stream)

    def clear(self, address: int, size: int) -> None:
        self.call("cuMemsetD8Async", address, 0, size, self._stream)

    def multiply(self, a: int, b: int, c: int, n: int) -> None:
        """The product of two square bf16 matrices, added up in fp32."""
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        pointer = ctypes.c_void_p
        self.blas(
            *("cublasGemmEx", self._blas, _PLAIN, _PLAIN, n, n, n, ctypes.byref(one)),
            *(pointer(a), _BF16, n, pointer(b), _BF16, n, ctypes.byref(zero)),
            *(pointer(c), _BF16, n, _COMPUTE_32F, _DEFAULT_ALGORITHM),
        )

    def event(self) -> Any:
        return self.call("cuEventCreate", 0)

    def record(self, event: Any) -> None:
        self.call("cuEventRecord", event, self._stream)

    def between(self, start: Any, end: Any) -> float:
        """Seconds of the GPU's own clock."""
        return float(self.call("cuEventElapsedTime", start, end)) / 1000

    def finish(self) -> None:
        self.call("cuStreamSynchronize", self._stream)

    def numbers(self, address: int, count: int) -> list[int]:
        """Read 64-bit numbers back."""
        self.finish()
        buffer = (ctypes.c_uint64 * count)()
        self.call("cuMemcpyDtoH", ctypes.addressof(buffer), address, count * WORD)
        return list(buffer)

    def checksum(self, address: int, size: int) -> int:
        with self.memory(WORD) as total:
            self.clear(total, WORD)
            self.launch("checksum", address, size // WORD, total)
            return self.numbers(total, 1)[0]


def rate(gpu: Gpu, work: Callable[[], None], seconds: float) -> tuple[float, int]:
    """How often work was done, and in how many seconds of the GPU: at least *seconds* of the host, and once to warm up."""
    work()
    start, end = gpu.event(), gpu.event()
    spent, times = 0.0, 0
    until = time.monotonic() + seconds
    while True:
        gpu.record(start)
        for _time in range(4):
            work()
        gpu.record(end)
        gpu.finish()
        spent += gpu.between(start, end)
        times += 4
        if time.monotonic() >= until:
            return spent, times


def host_link(gpu: Gpu, seconds: float) -> Result:
    """Bandwidth to the GPU and back through pinned memory, in GB/s of 10^9 bytes; what was there and back must be the same."""
    result: Result = {}
    with gpu.pinned(HOST_BYTES) as host, gpu.memory(2 * HOST_BYTES) as device:
        back = device + HOST_BYTES
        gpu.launch("fill", device, HOST_BYTES // WORD, 1)
        gpu.clear(back, HOST_BYTES)
        for name, kind, target, source in (
            ("device_to_host_gb_per_second", "DtoH", host, device),
            ("host_to_device_gb_per_second", "HtoD", back, host),
        ):
            copy = partial(gpu.copy, kind, target, source, HOST_BYTES)
            spent, times = rate(gpu, copy, seconds)
            result[name] = times * HOST_BYTES / spent / 1e9
        result["host_equal"] = gpu.checksum(device, HOST_BYTES) == gpu.checksum(back, HOST_BYTES)
    return result


def copies(gpu: Gpu, memory: int, size: int, seconds: float) -> Result:
    """Copy the first half of the memory to the second, in GB/s of 10^9 bytes, each read and each written byte counted."""
    half = size // 2 // WORD * WORD
    gpu.launch("fill", memory, half // WORD, 2)
    gpu.clear(memory + half, half)
    spent, times = rate(gpu, partial(gpu.copy, "DtoD", memory + half, memory, half), seconds)
    same = gpu.checksum(memory, half) == gpu.checksum(memory + half, half)
    return {"copy_gb_per_second": 2 * half * times / spent / 1e9, "copy_equal": same}


class Products:
    """The same product again and again, each time to the next part of the memory, and each with its checksum."""

    def __init__(self, gpu: Gpu, memory: int, size: int, n: int) -> None:
        self._gpu, self._n = gpu, n
        self._bytes = 2 * n * n
        self._a, self._b, self._memory = memory, memory + self._bytes, memory + 2 * self._bytes
        self._slots = size // self._bytes - 2
        self._iterations = 0
        self._sums = int(gpu.call("cuMemAlloc", BATCH * WORD))
        self._events = [(gpu.event(), gpu.event()) for _product in range(BATCH)]
        gpu.launch("fill", self._a, self._bytes // WORD, 3)
        gpu.launch("fill", self._b, self._bytes // WORD, 4 * n * n)

    def first(self) -> Result:
        """The checksum that all others must have, and how many elements of this product are not what another way gives."""
        gpu = self._gpu
        gpu.multiply(self._a, self._b, self._memory, self._n)
        gpu.clear(self._sums, WORD)
        gpu.launch("inspect", self._a, self._b, self._memory, self._n, self._sums)
        wrong = gpu.numbers(self._sums, 1)[0]
        self.reference = gpu.checksum(self._memory, self._bytes)
        return {"checksum": f"{self.reference:016x}", "inspected": INSPECTED, "wrong": wrong}

    def batch(self) -> tuple[float, list[int]]:
        """Seconds that the products took, without their checksums, and the iterations whose checksum is another one."""
        gpu = self._gpu
        gpu.clear(self._sums, BATCH * WORD)
        for place, (start, end) in enumerate(self._events):
            slot = self._memory + (self._iterations + place) % self._slots * self._bytes
            gpu.record(start)
            gpu.multiply(self._a, self._b, slot, self._n)
            gpu.record(end)
            gpu.launch("checksum", slot, self._bytes // WORD, self._sums + place * WORD)
        sums = gpu.numbers(self._sums, BATCH)
        begun = self._iterations
        self._iterations += BATCH
        spent = sum(gpu.between(start, end) for start, end in self._events)
        return spent, [begun + place for place, one in enumerate(sums) if one != self.reference]

    def run(self, seconds: float, interval: float) -> Result:
        """Multiply for some seconds; ``rates`` has seconds since the start and TFLOP/s, once an interval."""
        flops = 2 * self._n**3 * BATCH / 1e12
        self.batch()
        self._iterations = 0
        spent, mismatches, rates = 0.0, [], []
        began = window = time.monotonic()
        windowed, batches = 0.0, 0
        while True:
            took, others = self.batch()
            spent, windowed, batches = spent + took, windowed + took, batches + 1
            mismatches += others
            now = time.monotonic()
            over = now - began >= seconds
            if over or now - window >= interval:
                rates.append([round(now - began, 3), flops * batches / windowed])
                window, windowed, batches = now, 0.0, 0
            if over:
                break
        return {
            "matrix_tflops": 2 * self._n**3 * self._iterations / spent / 1e12,
            "iterations": self._iterations,
            "mismatches": len(mismatches),
            "first_mismatch": mismatches[0] if mismatches else None,
            "rates": rates,
        }
