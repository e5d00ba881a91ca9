"""What an engine is compiled for, and whether that flavour and precision can be had there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from deepseek_serving.artifacts.engines import Flavour
from deepseek_serving.compile.host import (
    Gpus,
    Package,
    find_package,
    read_gpus,
    require_package,
)
from deepseek_serving.compile.key import Target
from deepseek_serving.compile.source import Source
from deepseek_serving.errors import BuildError

# What the runtime of TensorRT-RTX 1.7 says it supports when it is asked for another GPU.
RTX_TARGETS = ("8.0", "8.6", "8.9", "12.0", "12.1")
# Least compute capability with tensor cores for a type (CUDA C++ Programming Guide, "Compute
# Capabilities"; TensorRT-RTX 1.7 refuses the same).
LEAST_CAPABILITY = {"fp16": "7.5", "int8": "7.5", "bf16": "8.0", "int4": "8.0", "fp8": "8.9"}
# TensorRT with the ONNX operators of a decoder: Attention, TensorScatter (opset 24).
DECODER_VERSION = (10, 15)


@dataclass(frozen=True)
class Choice:
    """The compiler and what it compiles for."""

    package: Package
    target: Target
    driver: str | None

    @property
    def strongly_typed(self) -> bool:
        """TensorRT has the mode from 10.0 on, and TensorRT-RTX knows no other."""
        return self.package.flavour != "tensorrt" or numbers(self.package.version) >= (10,)


@dataclass(frozen=True)
class Wish:
    """What was asked for; None and `auto` mean this host's own GPU."""

    flavour: str = "auto"
    compute_capability: str | None = None
    hardware_compatible: bool = False


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def choose(wish: Wish, source: Source, gpus: Callable[[], Gpus] = read_gpus) -> Choice:
    """Decide, and refuse what cannot work; raises BuildError."""
    if wish.flavour == "onnxruntime":
        _refuse_capability(wish)
        return Choice(require_package("onnxruntime"), Target(None, None), None)
    found = gpus()
    if wish.flavour == "auto" or wish.compute_capability is None:
        _require_gpu(wish, found)
    products = {gpu.product: gpu.compute_capability for gpu in found.found}
    if len(products) > 1 and wish.compute_capability is None:
        raise BuildError(
            f"this host has different GPUs ({', '.join(sorted(products))}); name the compute "
            "capability to build for"
        )
    capability = wish.compute_capability or next(iter(products.values()))
    if not re.fullmatch(r"\d+\.\d", capability):
        raise BuildError(f"compute capability {capability!r} must look like 8.0")
    package = _package(wish, capability)
    _refuse_precision(source, capability)
    if package.flavour == "tensorrt_rtx":
        _refuse_rtx(capability)
        return Choice(package, Target(capability, None), found.driver)
    _refuse_elsewhere(capability, found)
    _refuse_version(source, package)
    if wish.hardware_compatible:
        return Choice(package, Target(capability, None), found.driver)
    if len(products) > 1:
        raise BuildError(
            f"flavour tensorrt measures its kernels on one GPU, and this host has different ones "
            f"({', '.join(sorted(products))}); ask for hardware compatibility, or build on a host "
            "with one kind"
        )
    return Choice(package, Target(capability, found.found[0].product), found.driver)


def _require_gpu(wish: Wish, gpus: Gpus) -> None:
    if not gpus.found:
        raise BuildError(
            f"flavour {wish.flavour} for this host's own GPU was asked for, but there is none "
            f"({gpus.problem or 'NVML counts 0 GPUs'}). Install the driver, or name flavour "
            "tensorrt_rtx and a compute capability to compile ahead of time, or flavour "
            "onnxruntime to serve without a GPU"
        )


def _refuse_capability(wish: Wish) -> None:
    if wish.compute_capability is not None or wish.hardware_compatible:
        raise BuildError(
            "flavour onnxruntime compiles for the CPU: leave out compute capability and hardware "
            "compatibility"
        )


def _package(wish: Wish, capability: str) -> Package:
    if wish.flavour == "auto":
        flavours: list[Flavour] = ["tensorrt"]
        if capability in RTX_TARGETS:
            flavours.append("tensorrt_rtx")
        for flavour in flavours:
            package = find_package(flavour)
            if package is not None:
                return package
        raise BuildError(
            f"this host's GPU has compute capability {capability}, and none of "
            f"{', '.join(flavours)} is installed in this environment; install one"
        )
    return require_package("tensorrt_rtx" if wish.flavour == "tensorrt_rtx" else "tensorrt")


def _refuse_precision(source: Source, capability: str) -> None:
    least = LEAST_CAPABILITY.get(source.precision)
    if least is not None and numbers(capability) < numbers(least):
        raise BuildError(
            f"{source.path}: {source.precision} needs compute capability {least} or more, and the "
            f"engine is for {capability}; prepare the model in another precision"
        )


def _refuse_rtx(capability: str) -> None:
    if capability not in RTX_TARGETS:
        raise BuildError(
            f"TensorRT-RTX has no runtime for compute capability {capability} (it has "
            f"{', '.join(RTX_TARGETS)}); use flavour tensorrt on that GPU"
        )


def _refuse_elsewhere(capability: str, gpus: Gpus) -> None:
    here = {gpu.compute_capability for gpu in gpus.found}
    if capability not in here:
        raise BuildError(
            f"flavour tensorrt compiles on the GPU itself: {capability} was asked for, and this "
            f"host has {', '.join(sorted(here)) or 'no GPU'}. Build on a host with that GPU, or "
            "use flavour tensorrt_rtx"
        )


def _refuse_version(source: Source, package: Package) -> None:
    if source.kind == "decoder" and numbers(package.version) < DECODER_VERSION:
        least = ".".join(map(str, DECODER_VERSION))
        raise BuildError(
            f"tensorrt {package.version} lacks the operators of a decoder; install {least} or "
            "newer (encoders build from 8.6 on)"
        )
