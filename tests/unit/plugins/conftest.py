# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with two H100, as recorded, whose faults a test can choose."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.gpu import nvml as gpu_nvml
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.host import Host, host_of
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.snapshot import (
    Snapshot,
    snapshot_of,
)

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "gpu"
BURN_IN = "h100-burn-in.json"
MODULE = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build  "
    "(dvs-builder@U22)\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)


class Recorded:
    """A host below a directory: what NVML says (``gpus``, ``system``), and what the kernel says."""

    def __init__(self, directory: Path) -> None:
        recording = json.loads((FIXTURES / "h100-nvml.json").read_text())
        first = {
            **recording["devices"][0],
            **json.loads((FIXTURES / "h100-calls.json").read_text()),
        }
        for link, state in enumerate(first.pop("nvlink")):
            first[f"nvmlDeviceGetNvLinkState({link})"] = state
        second = copy.deepcopy(first)
        second["nvmlDeviceGetUUID"] = second["nvmlDeviceGetUUID"][:-1] + "5"
        second["nvmlDeviceGetPciInfo"]["busId"] = "00000000:00:07.0"
        self.gpus: list[dict[str, Any]] = [first, second]
        self.system: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": recording["driver"],
            "nvmlSystemGetNVMLVersion": recording["nvml"],
            "nvmlSystemGetCudaDriverVersion": recording["cuda"],
        }
        self.load: dict[str, Any] = {
            "gpus": {gpu["uuid"]: gpu for gpu in json.loads((FIXTURES / BURN_IN).read_text())},
            "missing": [],
            "free_bytes": 2**35,
        }
        self.log = ["kernel: Linux version 6.12.0"]
        self.root = directory / "root"
        self.binding = directory / "binding"
        for address in ("0000:00:06.0", "0000:00:07.0"):
            device = f"sys/bus/pci/devices/{address}"
            self.write(f"{device}/vendor", "0x10de\n")
            self.write(f"{device}/class", "0x030200\n")
        self.write("sys/bus/pci/devices/0000:00:01.0/vendor", "0x8086\n")
        self.write("proc/driver/nvidia/version", MODULE.format(version=recording["driver"]))

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def process(self, pid: int, command: str, group: str, memory: int = 0) -> None:
        """Let a process use the first GPU."""
        self.write(f"proc/{pid}/comm", command + "\n")
        self.write(f"proc/{pid}/cgroup", f"0::{group}\n")
        use = {"pid": pid, "usedGpuMemory": memory, "gpuInstanceId": 0xFFFFFFFF}
        self.gpus[0]["nvmlDeviceGetComputeRunningProcesses"].append(use)

    def loaded(self, index: int) -> dict[str, Any]:
        """What a GPU reaches under load, and its faults."""
        gpu: dict[str, Any] = list(self.load["gpus"].values())[index]
        return gpu

    def save(self) -> Path:
        """The directory with the bindings that give these answers."""
        self.system["nvmlDeviceGetCount"] = len(self.gpus)
        self.binding.mkdir(exist_ok=True)
        for stand_in in ("cuda.py", "pynvml.py"):
            shutil.copy(FIXTURES / stand_in, self.binding)
        (self.binding / "load.json").write_text(json.dumps(self.load))
        (self.binding / "recording.json").write_text(
            json.dumps({"system": self.system, "gpus": self.gpus})
        )
        return self.binding

    def snapshot(self) -> Snapshot:
        file = self.save() / "pynvml.py"
        spec = importlib.util.spec_from_file_location("recorded_pynvml", file)
        assert spec is not None
        assert spec.loader is not None
        nvml: Any = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = nvml
        spec.loader.exec_module(nvml)
        return snapshot_of(json.loads(json.dumps(gpu_nvml.read(nvml, lambda question: None))))

    def host(self, log_problem: str = "") -> Host:
        return host_of(self.snapshot(), self.root, self.log, log_problem)


@pytest.fixture(scope="session")
def healthy_host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Recorded(tmp_path_factory.mktemp("healthy")).host()


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    yield Recorded(tmp_path)
    sys.modules.pop("recorded_pynvml", None)
