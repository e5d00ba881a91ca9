"""What the collection's GPU modules ask is in NVIDIA's binding; only these tests have that."""

from __future__ import annotations

import importlib.util
import inspect

import pynvml
import pytest
from support import ROOT

SOURCE = ROOT / "plugins" / "module_utils" / "gpu" / "nvml.py"
SPEC = importlib.util.spec_from_file_location("gpu_nvml", SOURCE)
assert SPEC is not None
assert SPEC.loader is not None
GPU_NVML = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(GPU_NVML)
GETTERS = {
    **GPU_NVML.GETTERS,
    "nvlink state": ("nvmlDeviceGetNvLinkState", 0),
    "nvlink version": ("nvmlDeviceGetNvLinkVersion", 0),
}


@pytest.mark.parametrize("question", sorted(GETTERS))
def test_a_getter_takes_what_it_is_given(question: str) -> None:
    name, *arguments = GETTERS[question]
    inspect.signature(getattr(pynvml, name)).bind(object(), *arguments)


def test_the_state_of_the_fabric_is_in_its_structure() -> None:
    info = pynvml.c_nvmlGpuFabricInfo_t()
    assert (info.state, info.status) == (0, 0)
    inspect.signature(pynvml.nvmlDeviceGetGpuFabricInfo).bind(object(), info)


def test_without_a_driver_the_reason_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "CDLL", _no_library)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    answers = GPU_NVML.read(pynvml, lambda question: None)
    assert answers == {
        "init": {"error": "NVML Shared Library Not Found", "code": 12},
        "library": {"error": "Uninitialized", "code": 1},
    }


def _no_library(name: str) -> None:
    raise OSError(name)
