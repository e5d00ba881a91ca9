# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask NVML for everything that this collection reads, and print the answers as JSON.

It runs as a process of its own, since NVML can block in the driver, and by whichever Python has NVIDIA's binding
(``pynvml``, of the package nvidia-ml-py): so it needs the standard library only. Before each question it says on
standard error which one it is; the last of them is where an NVML that hangs stopped.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

Answer = dict[str, Any]
Say = Callable[[str], None]

# Codes of NVML that mean that a link is not there.
_NO_LINK = (2, 3)
# Bindings older than Blackwell name no number of links.
_LINKS = 18

# Field -> NVML's function and what it takes besides the GPU. The numbers are members of NVML's enumerations.
GETTERS: dict[str, tuple[Any, ...]] = {
    "product": ("nvmlDeviceGetName",),
    "uuid": ("nvmlDeviceGetUUID",),
    "serial": ("nvmlDeviceGetSerial",),
    "pci": ("nvmlDeviceGetPciInfo",),
    "vbios": ("nvmlDeviceGetVbiosVersion",),
    "compute_capability": ("nvmlDeviceGetCudaComputeCapability",),
    "memory": ("nvmlDeviceGetMemoryInfo",),
    "persistence_mode": ("nvmlDeviceGetPersistenceMode",),
    "performance_state": ("nvmlDeviceGetPerformanceState",),
    "utilization": ("nvmlDeviceGetUtilizationRates",),
    "mig_mode": ("nvmlDeviceGetMigMode",),
    "ecc_mode": ("nvmlDeviceGetEccMode",),
    # error type (0 corrected, 1 uncorrected), counter (0 since the driver was loaded, 1 of the GPU's life)
    "ecc_volatile_corrected": ("nvmlDeviceGetTotalEccErrors", 0, 0),
    "ecc_volatile_uncorrected": ("nvmlDeviceGetTotalEccErrors", 1, 0),
    "ecc_aggregate_corrected": ("nvmlDeviceGetTotalEccErrors", 0, 1),
    "ecc_aggregate_uncorrected": ("nvmlDeviceGetTotalEccErrors", 1, 1),
    "remapped_rows": ("nvmlDeviceGetRemappedRows",),
    "retired_pages_pending": ("nvmlDeviceGetRetiredPagesPendingStatus",),
    "pcie_generation": ("nvmlDeviceGetCurrPcieLinkGeneration",),
    "pcie_generation_max": ("nvmlDeviceGetMaxPcieLinkGeneration",),
    "pcie_generation_gpu": ("nvmlDeviceGetGpuMaxPcieLinkGeneration",),
    "pcie_width": ("nvmlDeviceGetCurrPcieLinkWidth",),
    "pcie_width_max": ("nvmlDeviceGetMaxPcieLinkWidth",),
    "pcie_replays": ("nvmlDeviceGetPcieReplayCounter",),
    # clock (0 graphics, 1 streaming multiprocessors, 2 memory)
    "clock_graphics_mhz": ("nvmlDeviceGetClockInfo", 0),
    "clock_sm_mhz": ("nvmlDeviceGetClockInfo", 1),
    "clock_memory_mhz": ("nvmlDeviceGetClockInfo", 2),
    "clock_graphics_max_mhz": ("nvmlDeviceGetMaxClockInfo", 0),
    "clock_sm_max_mhz": ("nvmlDeviceGetMaxClockInfo", 1),
    "clock_memory_max_mhz": ("nvmlDeviceGetMaxClockInfo", 2),
    "throttle_reasons": ("nvmlDeviceGetCurrentClocksThrottleReasons",),
    "power_usage": ("nvmlDeviceGetPowerUsage",),
    "power_limit": ("nvmlDeviceGetEnforcedPowerLimit",),
    "power_limit_default": ("nvmlDeviceGetPowerManagementDefaultLimit",),
    "power_limit_range": ("nvmlDeviceGetPowerManagementLimitConstraints",),
    "temperature": ("nvmlDeviceGetTemperature", 0),
    "temperature_margin": ("nvmlDeviceGetMarginTemperature",),
    # threshold (0 shutdown, 1 slowdown)
    "temperature_shutdown": ("nvmlDeviceGetTemperatureThreshold", 0),
    "temperature_slowdown": ("nvmlDeviceGetTemperatureThreshold", 1),
    "compute_processes": ("nvmlDeviceGetComputeRunningProcesses",),
    "graphics_processes": ("nvmlDeviceGetGraphicsRunningProcesses",),
}
# The one that answers although the library refuses to work with the kernel module.
LIBRARY = ("library", "nvmlSystemGetNVMLVersion")
SYSTEM = {"driver": "nvmlSystemGetDriverVersion", "cuda": "nvmlSystemGetCudaDriverVersion"}


class Nvml(Protocol):
    """NVIDIA's binding: functions by NVML's own names, and one class of errors with NVML's code as ``value``."""

    NVMLError: type[Exception]

    def __getattr__(self, name: str) -> Any: ...


def read(nvml: Nvml, say: Say) -> Answer:
    """All answers: of the system, and of each GPU; an error is an answer, too."""
    started = _ask(nvml, say, "nvmlInit")
    answers: Answer = {"init": started, LIBRARY[0]: _ask(nvml, say, LIBRARY[1])}
    if "error" in started:
        return answers
    try:
        answers.update({name: _ask(nvml, say, function) for name, function in SYSTEM.items()})
        answers["count"] = _ask(nvml, say, "nvmlDeviceGetCount")
        count = answers["count"].get("value", 0)
        answers["gpus"] = [_gpu(nvml, say, index) for index in range(count)]
    finally:
        _ask(nvml, say, "nvmlShutdown")
    return answers


def _gpu(nvml: Nvml, say: Say, index: int) -> Answer:
    def say_which(function: str) -> None:
        say(f"{function} of GPU {index}")

    say_which("nvmlDeviceGetHandleByIndex")
    try:
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        return {"handle": _error(error)}
    answers = {
        field: _ask(nvml, say_which, getter[0], gpu, *getter[1:])
        for field, getter in GETTERS.items()
    }
    answers["fabric"] = _fabric(nvml, say_which, gpu)
    return {**answers, "nvlinks": list(_links(nvml, say_which, gpu))}


def _fabric(nvml: Nvml, say: Say, gpu: Any) -> Answer:
    """The state of the NVSwitch fabric, which NVML writes to a structure that it is given."""
    structure = getattr(nvml, "c_nvmlGpuFabricInfo_t", None)
    if structure is None:
        return {"error": "the installed pynvml has no c_nvmlGpuFabricInfo_t", "code": None}
    info = structure()
    answer = _ask(nvml, say, "nvmlDeviceGetGpuFabricInfo", gpu, ctypes.byref(info))
    if "error" in answer:
        return answer
    return {"value": {"state": info.state, "status": info.status}}


def _links(nvml: Nvml, say: Say, gpu: Any) -> Iterator[Answer]:
    for link in range(getattr(nvml, "NVML_NVLINK_MAX_LINKS", _LINKS)):
        state = _ask(nvml, say, "nvmlDeviceGetNvLinkState", gpu, link)
        if state.get("code") not in _NO_LINK:
            version = _ask(nvml, say, "nvmlDeviceGetNvLinkVersion", gpu, link)
            yield {"link": link, "state": state, "version": version}


def _ask(nvml: Nvml, say: Say, name: str, *arguments: Any) -> Answer:
    say(name)
    function = getattr(nvml, name, None)
    if function is None:
        return {"error": f"the installed pynvml has no {name}", "code": None}
    try:
        return {"value": _plain(function(*arguments))}
    except nvml.NVMLError as error:
        return _error(error)


def _error(error: Exception) -> Answer:
    return {"error": str(error), "code": getattr(error, "value", None)}


def _plain(value: Any) -> Any:
    """What JSON can hold: older bindings answer in bytes, many answers are structures of C."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "_fields_"):
        return {field[0]: _plain(getattr(value, field[0])) for field in value._fields_}
    if hasattr(value, "__dict__"):
        return {name: _plain(item) for name, item in vars(value).items()}
    return value


def main(arguments: Sequence[str]) -> None:
    """Read with the binding of this Python, or with the one in the directory or wheel that is given."""
    sys.path[:0] = arguments

    def say(question: str) -> None:
        sys.stderr.write(f"{question}\n")
        sys.stderr.flush()

    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        answers: Answer = {"binding": str(error)}
    else:
        answers = read(nvml, say)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
