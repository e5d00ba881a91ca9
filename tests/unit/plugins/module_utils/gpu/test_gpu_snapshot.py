# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of NVML's answers, and of those that do not come."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

from ansible_collections.onprem.deepseek.plugins.module_utils.gpu import nvml as gpu_nvml
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.checks import judge
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.expectations import Expectations
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.host import facts, kernel_log
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.nvml_codes import (
    DRIVER_MISMATCH,
    of_nvml,
    remedy_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.snapshot import (
    Gpu,
    Link,
    driver_in,
    reasons_of,
    take,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.xid import (
    CATALOGUE,
    address,
    xids_in,
)

NOT_SUPPORTED = {"error": "Not Supported", "code": 3}


def test_an_h100_as_recorded(recorded: Any) -> None:
    snapshot = recorded.snapshot()
    assert (snapshot.driver, snapshot.library, snapshot.cuda) == ("580.159.04",) * 2 + ("13.0",)
    gpu, other = snapshot.gpus
    assert gpu.product == other.product == "NVIDIA H100 80GB HBM3"
    assert gpu.uuid == "GPU-00000000-1111-2222-3333-444444444444"
    assert gpu.pci_bus_id == "00000000:00:06.0"
    assert gpu.vbios == "96.00.DA.00.0C"
    assert gpu.compute_capability == "9.0"
    assert (gpu.memory_total_bytes, gpu.memory_used_bytes) == (85520809984, 503316480)
    assert (gpu.ecc_mode, gpu.mig_mode, gpu.persistence_mode) == (True, False, True)
    assert (gpu.pcie_generation, gpu.pcie_width, gpu.pcie_width_max) == (5, 16, 16)
    assert gpu.throttle_reasons == ("gpu_idle",)
    assert (gpu.power_usage_watts, gpu.power_limit_watts) == (73.026, 700.0)
    assert (gpu.power_limit_min_watts, gpu.power_limit_max_watts) == (200.0, 700.0)
    assert (gpu.temperature_celsius, gpu.temperature_margin_celsius) == (43, 44)
    assert (gpu.clock_sm_mhz, gpu.clock_sm_max_mhz, gpu.clock_memory_mhz) == (345, 1980, 2619)
    assert (gpu.nvlinks, gpu.processes, gpu.problem) == ((), (), None)


def test_whatever_is_missing_has_a_reason(recorded: Any) -> None:
    gpu = recorded.snapshot().gpus[0]
    missing = {
        field.name
        for field in dataclasses.fields(Gpu)
        if field.name != "problem" and getattr(gpu, field.name) is None
    }
    assert gpu.errors == dict.fromkeys(missing, "Not Supported")
    assert missing == {
        "fabric_state",
        "fabric_status",
        "retired_pages_pending",
        "temperature_shutdown_celsius",
        "temperature_slowdown_celsius",
    }


@pytest.mark.parametrize("getter", sorted(gpu_nvml.GETTERS))
def test_any_getter_may_fail(recorded: Any, getter: str) -> None:
    name, *arguments = gpu_nvml.GETTERS[getter]
    call = f"{name}({', '.join(map(str, arguments))})" if arguments else name
    before = recorded.snapshot().gpus[0]
    recorded.gpus[0][call] = {"error": "Unknown Error", "code": 999}
    after = recorded.snapshot().gpus[0]
    new = {field for field, reason in after.errors.items() if reason == "Unknown Error"}
    assert new
    assert all(getattr(after, field) is None for field in new)
    kept = {field.name for field in dataclasses.fields(Gpu)} - new - {"errors", "codes"}
    assert all(getattr(after, field) == getattr(before, field) for field in kept)


@pytest.mark.parametrize("answer", [None, "", [], {}, "N/A", [None]])
def test_an_answer_that_makes_no_sense_is_told(recorded: Any, answer: Any) -> None:
    for getter in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMigMode", "nvmlDeviceGetPowerUsage"):
        recorded.gpus[0][getter] = answer
    gpu = recorded.snapshot().gpus[0]
    assert (gpu.memory_total_bytes, gpu.mig_mode_pending, gpu.power_usage_watts) == (None,) * 3
    assert gpu.errors["memory_used_bytes"] == f"the answer is {answer!r}"


def test_links_that_are_not_there_are_left_out(recorded: Any) -> None:
    gpu = recorded.gpus[0]
    gpu["nvmlDeviceGetNvLinkState(0)"] = 1
    gpu["nvmlDeviceGetNvLinkVersion(0)"] = 7
    gpu["nvmlDeviceGetNvLinkState(1)"] = 0
    gpu["nvmlDeviceGetNvLinkState(2)"] = {"error": "Invalid Argument", "code": 2}
    gpu["nvmlDeviceGetNvLinkState(3)"] = {"error": "Unknown Error", "code": 999}
    assert recorded.snapshot().gpus[0].nvlinks == (
        Link(0, True, 7),
        Link(1, False, None),
        Link(3, None, None, "Unknown Error"),
    )


class Structure(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char * 8), ("total", ctypes.c_ulonglong))


class OldBinding:
    """A binding that gives structures and bytes, and lacks what came later."""

    LACKS = ("nvmlDeviceGetRemappedRows", "nvmlDeviceGetNvLinkState", "c_nvmlGpuFabricInfo_t")
    NVMLError = OSError
    NVML_NVLINK_MAX_LINKS = 1

    def __getattr__(self, name: str) -> Any:
        if name in self.LACKS:
            raise AttributeError(name)
        known = {"nvmlDeviceGetCount": 1, "nvmlDeviceGetName": b"A100"}
        structure = Structure(b"00:06.0", 7)
        return lambda *arguments: known.get(name, structure)


def test_old_bindings_give_bytes_and_structures_and_lack_getters() -> None:
    (gpu,) = gpu_nvml.read(OldBinding(), lambda question: None)["gpus"]
    assert gpu["product"] == {"value": "A100"}
    assert gpu["pci"] == {"value": {"name": "00:06.0", "total": 7}}
    error = "the installed pynvml has no nvmlDeviceGetRemappedRows"
    assert gpu["remapped_rows"] == {"error": error, "code": None}
    assert gpu["nvlinks"][0]["state"]["code"] is None
    assert gpu["fabric"]["error"] == "the installed pynvml has no c_nvmlGpuFabricInfo_t"


@pytest.mark.parametrize(
    ("code", "says", "problem", "remedy"),
    [
        (18, "Driver/library version mismatch", "mismatch", DRIVER_MISMATCH),
        (9, "Driver Not Loaded", "nvml", "Load the module (modprobe nvidia)."),
        (12, "NVML Shared Library Not Found", "nvml", "Install NVIDIA's driver"),
        (4, "Insufficient Permissions", "nvml", "Run the task with become: true"),
        (999, "Unknown Error", "nvml", "Run nvidia-smi -q on the host"),
    ],
)
def test_an_nvml_that_refuses(
    recorded: Any, code: int, says: str, problem: str, remedy: str
) -> None:
    recorded.system["nvmlInit"] = {"error": says, "code": code}
    snapshot = recorded.snapshot()
    assert snapshot.gpus == ()
    assert snapshot.library == "580.159.04"
    assert (snapshot.problem.code, snapshot.problem.detail) == (problem, f"NVML: {says}")
    assert snapshot.problem.remedy.startswith(remedy)


def test_a_lost_gpu_leaves_the_others(recorded: Any) -> None:
    recorded.gpus[0]["nvmlDeviceGetHandleByIndex"] = {"error": "GPU is lost", "code": 15}
    lost, other = recorded.snapshot().gpus
    assert lost.problem.detail == "NVML: GPU is lost"
    assert lost.problem.remedy.startswith("Look for Xid 79")
    assert other.problem is None


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (15, "Look for Xid 79"),
        (16, "Drain the host and reset the GPU"),
        (28, "Look for Xid 79"),
    ],
)
def test_a_gpu_that_is_lost_after_its_handle_is_told_once(
    recorded: Any, code: int, remedy: str
) -> None:
    """Kind: one remedy for all codes, "set it to null", for a GPU that is gone."""
    gone = {"error": "GPU is lost", "code": code}
    recorded.gpus[0] = {
        name: gone if name != "nvmlDeviceGetHandleByIndex" else answer
        for name, answer in recorded.gpus[0].items()
    }
    host = recorded.host()
    failed = [check for check in judge(host, Expectations(xids=None)) if not check.ok]
    (check,) = [one for one in failed if one.subject.startswith("GPU 0")]
    assert check.detail == "NVML: GPU is lost."
    assert check.remedy.startswith(remedy)
    assert host.snapshot.gpus[1].problem is None


@pytest.mark.parametrize("code", [*range(1, 29), 999])
def test_only_what_a_product_does_not_have_can_be_given_up(code: int) -> None:
    assert ("to null" in remedy_of(code, "ecc")) == (code in (3, 21, 22))
    assert of_nvml(code)


@pytest.mark.parametrize(("code", "says"), [(4, "become: true"), (10, "Run this again")])
def test_one_getter_that_fails_is_told_by_its_code(recorded: Any, code: int, says: str) -> None:
    recorded.gpus[0]["nvmlDeviceGetEccMode"] = {"error": "Some words", "code": code}
    (check,) = [
        one for one in judge(recorded.host(), Expectations()) if one.name == "ecc" and not one.ok
    ]
    assert says in check.remedy


def test_a_process_of_its_own_asks(recorded: Any) -> None:
    expected = recorded.snapshot()
    assert take(sys.executable, [str(recorded.save())], PATIENCE) == expected


def test_a_wheel_is_used_where_it_lies(recorded: Any, tmp_path: Path) -> None:
    expected, wheel = recorded.snapshot(), tmp_path / "nvidia_ml_py-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in ("pynvml.py", "recording.json"):
            archive.write(recorded.binding / file, file)
    assert take(sys.executable, [str(wheel)], PATIENCE) == expected


def test_an_nvml_that_hangs_is_given_up(recorded: Any) -> None:
    recorded.gpus[1]["nvmlDeviceGetPowerUsage"] = {"hang": 60}
    problem = take(sys.executable, [str(recorded.save())], 4).problem
    assert problem is not None
    assert problem.code == "timeout"
    assert problem.detail == (
        "NVML gave no answer within 4 seconds; the last question was "
        "nvmlDeviceGetPowerUsage of GPU 1"
    )
    assert "Xid 79, 119 or 120" in problem.remedy


def test_a_reader_that_cannot_be_killed_is_not_waited_for(
    recorded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands for a process that waits in the driver: its pipes stay open although it was killed.
    stuck = tmp_path / "python"
    child = tmp_path / "child"
    stuck.write_text(
        f"#!/bin/sh\necho nvmlInit >&2\nsleep 600 &\necho $! >{child}\nexec sleep 600\n"
    )
    stuck.chmod(0o755)
    monkeypatch.setattr(
        "ansible_collections.onprem.deepseek.plugins.module_utils.gpu.snapshot.GRACE_SECONDS", 0.2
    )
    problem = take(str(stuck), [], 2).problem
    # which fails where it is gone
    os.kill(int(child.read_text()), signal.SIGKILL)
    assert problem is not None
    assert problem.detail.endswith("the last question was nvmlInit")


def test_a_python_without_the_binding(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("raise ImportError('no binding here')\n")
    problem = take(sys.executable, [str(tmp_path)], 30).problem
    assert problem is not None
    assert problem.code == "no_binding"
    assert problem.detail.endswith("cannot be imported: no binding here")


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    problem = take(str(tmp_path / "python"), [], 30).problem
    assert problem is not None
    assert problem.detail == f"{tmp_path}/python does not run: No such file or directory"


def test_a_reader_that_fails(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("raise ValueError('broken')\n")
    problem = take(sys.executable, [str(tmp_path)], 30).problem
    assert problem is not None
    assert problem.detail == f"{sys.executable} ended with status 1: ValueError: broken"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15",
            "535.183.01",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release",
            "580.65.06",
        ),
        ("", None),
    ],
)
def test_version_of_the_kernel_module(text: str, version: str | None) -> None:
    assert driver_in(text) == version


def test_throttle_reasons_have_names() -> None:
    assert reasons_of(0) == ()
    assert reasons_of(0x48) == ("hw_slowdown", "hw_thermal_slowdown")
    assert reasons_of(1 << 40) == ("0x10000000000",)


@pytest.mark.parametrize(
    ("pci", "expected"),
    [
        ("00000000:3B:00.0", "0000:3b:00"),
        ("0000:3b:00", "0000:3b:00"),
        ("3b:00.0", "0000:3b:00"),
        ("00010000:C1:00.0", "10000:c1:00"),
        ("nowhere", "nowhere"),
    ],
)
def test_addresses(pci: str, expected: str) -> None:
    assert address(pci) == expected


def test_xids_in_the_kernel_log() -> None:
    lines = [
        "2026-11-24T08:00:00 h kernel: NVRM: Xid (PCI:0000:3b:00): 63, pid=1, Row Remapper",
        "[ 12.3] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.",
        "[ 12.4] NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.",
        "[ 12.5] NVRM: Xid (PCI:0000:3b:00): 79, name=python3, again",
        "[ 12.6] NVRM: Xid (0000:86:00): 999",
        "[ 12.7] NVRM: Xid (PCI:0000:86:00 GPU-I:05): 95, pid=7, Uncontained: LTC",
    ]
    remapped, lost, unknown, instance = xids_in(lines)
    assert (instance.pci, instance.number) == ("0000:86:00", 95)
    assert (remapped.pci, remapped.number, remapped.count) == ("0000:3b:00", 63, 1)
    assert str(lost) == ("Xid 79 (GPU has fallen off the bus) 2 times, last: name=python3, again")
    assert str(unknown) == "Xid 999 (not in this table) once, last: no more is said"
    assert CATALOGUE in unknown.remedy


def test_the_journal_comes_before_the_kernels_buffer() -> None:
    asked = []

    def run(answers: dict[str, tuple[int, str, str]]) -> Any:
        def command(argv: Any) -> tuple[int, str, str]:
            asked.append(argv[0])
            return answers[argv[0]]

        return command

    journal, buffer = {"journalctl": (0, "a\nb\n", "")}, {"dmesg": (0, "c\n", "")}
    empty = {"journalctl": (0, "", "not in group adm")}
    refused = {"dmesg": (1, "", "Operation not permitted\n")}
    assert kernel_log(run(journal)) == (["a", "b"], "")
    assert kernel_log(run({**empty, **buffer})) == (["c"], "")
    assert kernel_log(run({**empty, **refused})) == (
        [],
        "journalctl: not in group adm; dmesg: Operation not permitted",
    )
    assert asked == ["journalctl"] + ["journalctl", "dmesg"] * 2


def test_facts_name_processes_and_units(recorded: Any) -> None:
    group = "/system.slice/system-deepseek.slice/deepseek-inference@main.service"
    recorded.process(4711, "python3", group, memory=2**30)
    recorded.process(os.getpid(), "bash", "/user.slice/user-0.slice/session-1.scope")
    recorded.log.append("NVRM: Xid (PCI:0000:00:06): 31, pid=1, MMU Fault")
    found = facts(recorded.host())
    service, shell = found["gpus"][0]["processes"]
    assert service == {
        "pid": 4711,
        "kind": "compute",
        "memory_bytes": 2**30,
        "command": "python3",
        "unit": "deepseek-inference@main.service",
    }
    assert shell["unit"] == "session-1.scope"
    assert found["pci_gpus"] == ["0000:00:06.0", "0000:00:07.0"]
    assert found["kernel_module"] == "580.159.04"
    assert found["xids"][0]["meaning"] == "memory page fault"
    assert found["problem"] is None


def test_processes_that_nvml_does_not_list_are_not_none(recorded: Any) -> None:
    recorded.gpus[0]["nvmlDeviceGetComputeRunningProcesses"] = NOT_SUPPORTED
    assert facts(recorded.host())["gpus"][0]["processes"] is None
