"""What this host has: its GPUs through NVML, and the packages that can compile for them."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deepseek_serving.artifacts.engines import Flavour
from deepseek_serving.errors import BuildError

_CUDA = ("", "-cu11", "-cu12", "-cu13")
# Names on package indexes; the ones with -bindings hold the Python module of their flavour.
_PACKAGES: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": tuple(
        f"tensorrt{cuda}{part}" for cuda in reversed(_CUDA) for part in ("-bindings", "")
    ),
    "tensorrt_rtx": tuple(
        f"tensorrt-rtx{cuda}{part}" for cuda in reversed(_CUDA) for part in ("-bindings", "")
    ),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}
# TensorRT 8.6 names no CUDA version in its packages; it was built for CUDA 12.
_UNNAMED_CUDA = 12


@dataclass(frozen=True)
class Gpu:
    """One GPU, as NVML names it."""

    product: str
    uuid: str
    compute_capability: str


@dataclass(frozen=True)
class Gpus:
    """The GPUs of this host and their driver, or why there are none."""

    found: Sequence[Gpu]
    driver: str | None
    problem: str = ""


@dataclass(frozen=True)
class Package:
    """An installed compiler."""

    flavour: Flavour
    version: str
    cuda_major: int | None


def load_nvml() -> Any:
    """NVIDIA's own binding; raises ImportError where it is not installed."""
    import pynvml

    return pynvml


def read_gpus(load: Callable[[], Any] = load_nvml) -> Gpus:
    """Ask NVML; a host without GPU, driver or binding has none, and the reason is kept."""
    try:
        nvml = load()
    except ImportError:
        return Gpus((), None, "the Python package nvidia-ml-py is not installed")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Gpus((), None, f"NVML: {error}")
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        return Gpus([_gpu(nvml, i) for i in range(nvml.nvmlDeviceGetCount())], driver)
    except nvml.NVMLError as error:
        return Gpus((), None, f"NVML: {error}")
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    product, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
    return Gpu(_text(product), _text(uuid), f"{major}.{minor}")


def _text(value: str | bytes) -> str:
    """Older bindings answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value


def find_package(flavour: Flavour) -> Package | None:
    """The installed package of a flavour, by its metadata: nothing of it is imported."""
    for name in _PACKAGES[flavour]:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return Package(flavour, version, _cuda_major(flavour, name))
    return None


def _cuda_major(flavour: Flavour, name: str) -> int | None:
    if flavour == "onnxruntime":
        return None
    named = re.search(r"-cu(\d+)", name)
    return int(named.group(1)) if named else _UNNAMED_CUDA


def require_package(flavour: Flavour) -> Package:
    package = find_package(flavour)
    if package is None:
        raise BuildError(
            f"no package of flavour {flavour} is installed in this environment (looked for "
            f"{', '.join(_PACKAGES[flavour])}); install it, or ask for another flavour"
        )
    return package


def platform_name() -> str:
    """Operating system and machine type, as the key has them."""
    return f"{platform.system().lower()}-{platform.machine()}"
