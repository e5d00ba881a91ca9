"""Which GPUs a host has, as NVIDIA's library of management says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from engines import H100
from support import ROOT

from deepseek_serving.compile.host import Gpus, read_gpus


class RecordedNvml:
    """NVIDIA's binding, giving what an H100 gave it; `failing` names a call that does not work."""

    class NVMLError(Exception):
        pass

    def __init__(self, failing: str = "") -> None:
        fixture = ROOT / "tests" / "fixtures" / "gpu" / "h100-nvml.json"
        self._recording = json.loads(fixture.read_text(encoding="utf-8"))
        self._failing = failing
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name == self._failing:
                raise self.NVMLError("Driver/library version mismatch")
            return self._answer(name, *arguments)

        return call

    def _answer(self, name: str, *arguments: Any) -> Any:
        whole = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": self._recording["driver"],
            "nvmlDeviceGetCount": self._recording["count"],
        }
        if name in whole:
            return whole[name]
        if name == "nvmlDeviceGetHandleByIndex":
            return self._recording["devices"][arguments[0]]
        return arguments[0][name]


def test_an_h100_as_nvml_describes_it() -> None:
    nvml = RecordedNvml()
    assert read_gpus(lambda: nvml) == Gpus([H100], "580.159.04")
    assert (nvml.calls[0], nvml.calls[-1]) == ("nvmlInit", "nvmlShutdown")


@pytest.mark.parametrize(
    "failing",
    [
        "nvmlInit",
        "nvmlSystemGetDriverVersion",
        "nvmlDeviceGetCount",
        "nvmlDeviceGetHandleByIndex",
        "nvmlDeviceGetName",
        "nvmlDeviceGetCudaComputeCapability",
    ],
)
def test_errors_of_nvml_are_no_gpu_with_a_reason(failing: str) -> None:
    nvml = RecordedNvml(failing)
    assert read_gpus(lambda: nvml) == Gpus((), None, "NVML: Driver/library version mismatch")
    assert ("nvmlShutdown" in nvml.calls) == (failing != "nvmlInit")


def test_bytes_of_older_bindings_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = RecordedNvml()
    plain = nvml._answer

    def in_bytes(name: str, *arguments: Any) -> Any:
        value = plain(name, *arguments)
        return value.encode() if isinstance(value, str) else value

    monkeypatch.setattr(nvml, "_answer", in_bytes)
    assert read_gpus(lambda: nvml) == Gpus([H100], "580.159.04")


def test_a_host_without_the_binding() -> None:
    def load() -> Any:
        raise ImportError("No module named 'pynvml'")

    assert read_gpus(load).problem == "the Python package nvidia-ml-py is not installed"
