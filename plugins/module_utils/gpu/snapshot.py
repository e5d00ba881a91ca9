# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The GPUs of a host at one moment: what NVML said, with a reason for everything that it did not say."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import nvml
from .nvml_codes import LOOK, MISMATCH, OF_THE_WHOLE_GPU, of_nvml

# How long a reader that was killed may take to end; one that is stuck in the driver never does.
GRACE_SECONDS = 2.0

# Bits of nvmlDeviceGetCurrentClocksThrottleReasons, as nvml.h names them.
THROTTLE_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}

# Values of nvmlGpuFabricState_t.
FABRIC_STATES = ("not_supported", "not_started", "in_progress", "completed")


@dataclass(frozen=True)
class Problem:
    """Why there is no answer, and what to do about it."""

    code: str
    detail: str
    remedy: str


@dataclass(frozen=True)
class Link:
    """An NVLink of a GPU; ``error`` is why its state is not known."""

    link: int
    active: bool | None
    version: int | None
    error: str = ""


@dataclass(frozen=True)
class Use:
    """A process that holds memory of a GPU, as NVML lists it."""

    pid: int
    kind: str
    memory_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU. Whatever is None has its reason in ``errors``, and NVML's code in ``codes``, by the name of the field."""

    index: int
    product: str | None = None
    uuid: str | None = None
    serial: str | None = None
    pci_bus_id: str | None = None
    vbios: str | None = None
    compute_capability: str | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    persistence_mode: bool | None = None
    performance_state: int | None = None
    utilization_percent: int | None = None
    mig_mode: bool | None = None
    mig_mode_pending: bool | None = None
    ecc_mode: bool | None = None
    ecc_mode_pending: bool | None = None
    ecc_volatile_corrected: int | None = None
    ecc_volatile_uncorrected: int | None = None
    ecc_aggregate_corrected: int | None = None
    ecc_aggregate_uncorrected: int | None = None
    remapped_rows_corrected: int | None = None
    remapped_rows_uncorrected: int | None = None
    remapped_rows_pending: bool | None = None
    remapped_rows_failed: bool | None = None
    retired_pages_pending: bool | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_generation_gpu: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    pcie_replays: int | None = None
    clock_graphics_mhz: int | None = None
    clock_sm_mhz: int | None = None
    clock_memory_mhz: int | None = None
    clock_graphics_max_mhz: int | None = None
    clock_sm_max_mhz: int | None = None
    clock_memory_max_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    power_usage_watts: float | None = None
    power_limit_watts: float | None = None
    power_limit_default_watts: float | None = None
    power_limit_min_watts: float | None = None
    power_limit_max_watts: float | None = None
    temperature_celsius: int | None = None
    temperature_margin_celsius: int | None = None
    temperature_slowdown_celsius: int | None = None
    temperature_shutdown_celsius: int | None = None
    fabric_state: str | None = None
    fabric_status: int | None = None
    nvlinks: tuple[Link, ...] = ()
    processes: tuple[Use, ...] | None = None
    problem: Problem | None = None
    errors: dict[str, str] = field(default_factory=dict)
    codes: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """What NVML said of this host; with a problem there is no GPU in it."""

    library: str | None = None
    driver: str | None = None
    cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    problem: Problem | None = None


# Question of gpu_nvml -> fields of Gpu, each with how it is found in the answer.
Part = Callable[[Any], Any]


def _item(index: int, part: Part = int) -> Part:
    return lambda value: part(value[index])


def _key(name: str, part: Part = int) -> Part:
    return lambda value: part(value[name])


def _mode(value: Any) -> bool:
    """A switch; NVML has numbers for them."""
    return bool(int(value))


def _watts(milliwatts: Any) -> float:
    return int(milliwatts) / 1000


def reasons_of(bits: int) -> tuple[str, ...]:
    """Names of throttle reasons; a bit that has none yet is named by its number."""
    return tuple(
        THROTTLE_REASONS.get(1 << place, f"{1 << place:#x}")
        for place in range(bits.bit_length())
        if bits >> place & 1
    )


_FIELDS: dict[str, dict[str, Part]] = {
    "product": {"product": str},
    "uuid": {"uuid": str},
    "serial": {"serial": str},
    "pci": {"pci_bus_id": _key("busId", str)},
    "vbios": {"vbios": str},
    "compute_capability": {"compute_capability": lambda value: f"{value[0]}.{value[1]}"},
    "memory": {"memory_total_bytes": _key("total"), "memory_used_bytes": _key("used")},
    "persistence_mode": {"persistence_mode": _mode},
    "utilization": {"utilization_percent": _key("gpu")},
    "mig_mode": {"mig_mode": _item(0, _mode), "mig_mode_pending": _item(1, _mode)},
    "ecc_mode": {"ecc_mode": _item(0, _mode), "ecc_mode_pending": _item(1, _mode)},
    "remapped_rows": {
        "remapped_rows_corrected": _item(0),
        "remapped_rows_uncorrected": _item(1),
        "remapped_rows_pending": _item(2, _mode),
        "remapped_rows_failed": _item(3, _mode),
    },
    "retired_pages_pending": {"retired_pages_pending": _mode},
    "throttle_reasons": {"throttle_reasons": reasons_of},
    "power_usage": {"power_usage_watts": _watts},
    "power_limit": {"power_limit_watts": _watts},
    "power_limit_default": {"power_limit_default_watts": _watts},
    "power_limit_range": {
        "power_limit_min_watts": _item(0, _watts),
        "power_limit_max_watts": _item(1, _watts),
    },
    "temperature": {"temperature_celsius": int},
    "temperature_margin": {"temperature_margin_celsius": int},
    "temperature_slowdown": {"temperature_slowdown_celsius": int},
    "temperature_shutdown": {"temperature_shutdown_celsius": int},
    "fabric": {
        "fabric_state": _key("state", lambda state: FABRIC_STATES[state]),
        "fabric_status": _key("status"),
    },
}
# Whatever is not above is a number with the name of its question.
_PROCESSES = {"compute_processes": "compute", "graphics_processes": "graphics"}
_FIELDS.update({name: {name: int} for name in nvml.GETTERS if name not in {*_FIELDS, *_PROCESSES}})


def snapshot_of(answers: Mapping[str, Any]) -> Snapshot:
    """Give the answers of gpu_nvml their types."""
    if "binding" in answers:
        return Snapshot(problem=_no_binding(answers["binding"]))
    library = _library(answers["library"])
    if "error" in answers["init"]:
        return Snapshot(library, problem=_refusal(answers["init"]))
    if "error" in answers["count"]:
        return Snapshot(library, problem=_refusal(answers["count"]))
    return Snapshot(
        library=library,
        driver=answers["driver"].get("value"),
        cuda=_cuda(answers["cuda"]),
        gpus=tuple(_gpu(index, gpu) for index, gpu in enumerate(answers["gpus"])),
    )


def _no_binding(reason: str) -> Problem:
    return Problem(
        "no_binding",
        f"NVIDIA's Python binding of NVML cannot be imported: {reason}",
        "Set venv to an environment that has the package nvidia-ml-py (the serving environment, where the engine's flavour is "
        "for GPUs), or wheel to a copy of its wheel on the host.",
    )


def _refusal(answer: Mapping[str, Any]) -> Problem:
    code = answer["code"]
    name = "mismatch" if code == MISMATCH else "nvml"
    return Problem(name, f"NVML: {answer['error']}", of_nvml(code))


def _library(answer: Mapping[str, Any]) -> str | None:
    """The driver that the library belongs to: its own version is that one, behind the major version of CUDA."""
    version = answer.get("value")
    return str(version).partition(".")[2] if version else None


def _cuda(answer: Mapping[str, Any]) -> str | None:
    number = answer.get("value")
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _gpu(index: int, answers: Mapping[str, Any]) -> Gpu:
    if "handle" in answers:
        return Gpu(index, problem=_refusal(answers["handle"]))
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    codes: dict[str, int | None] = {}
    for question, fields in _FIELDS.items():
        for name, part in fields.items():
            try:
                values[name] = part(_value(answers[question]))
            except _SilentError as error:
                errors[name], codes[name] = str(error), error.code
            except (TypeError, ValueError, LookupError):
                errors[name] = f"the answer is {answers[question]['value']!r}"
    processes = _uses(answers, errors, codes)
    return Gpu(
        index=index,
        nvlinks=tuple(_link(link) for link in answers["nvlinks"]),
        processes=processes,
        problem=_gone(answers),
        errors=errors,
        codes=codes,
        **values,
    )


def _gone(answers: Mapping[str, Any]) -> Problem | None:
    """Why a GPU does not answer any more, though it had a handle a moment ago; each question after that has the same answer."""
    for answer in answers.values():
        if isinstance(answer, Mapping) and answer.get("code") in OF_THE_WHOLE_GPU:
            return _refusal(answer)
    return None


class _SilentError(Exception):
    """NVML's reason for giving no value, and its code."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(answer["error"])
        self.code: int | None = answer.get("code")


def _value(answer: Mapping[str, Any]) -> Any:
    if "error" in answer:
        raise _SilentError(answer)
    return answer["value"]


def _link(answers: Mapping[str, Any]) -> Link:
    state = answers["state"]
    active = bool(state["value"]) if "value" in state else None
    version = answers["version"].get("value")
    return Link(answers["link"], active, version, state.get("error", ""))


def _uses(
    answers: Mapping[str, Any], errors: dict[str, str], codes: dict[str, int | None]
) -> tuple[Use, ...] | None:
    found = []
    for question, kind in _PROCESSES.items():
        try:
            uses = _value(answers[question])
            found += [Use(int(use["pid"]), kind, use.get("usedGpuMemory")) for use in uses]
        except _SilentError as error:
            errors["processes"], codes["processes"] = str(error), error.code
            return None
    return tuple(found)


def take(python: str, paths: Sequence[str], timeout: float) -> Snapshot:
    """Ask NVML with a Python, with the binding in *paths* or its own, and for no longer than *timeout* seconds."""
    command = [python, "-I", "-", *paths]
    answers = _answers(command, inspect.getsource(nvml).encode(), timeout)
    return Snapshot(problem=answers) if isinstance(answers, Problem) else snapshot_of(answers)


def _answers(command: Sequence[str], program: bytes, timeout: float) -> dict[str, Any] | Problem:
    pipe = subprocess.PIPE
    try:
        reader = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError as error:
        return no_python(command[0], error)
    try:
        stdout, stderr = reader.communicate(program, timeout=timeout)
    except subprocess.TimeoutExpired:
        return _hangs(reader, timeout)
    try:
        answers = json.loads(stdout)
    except ValueError:
        return Problem(
            "reader",
            f"{command[0]} ended with status {reader.returncode}: {last_line(stderr)}",
            LOOK,
        )
    return dict(answers)


def no_python(python: str, error: OSError) -> Problem:
    """The Python that was given does not run."""
    return Problem(
        "no_python",
        f"{python} does not run: {error.strerror}",
        "Correct venv, or run role onprem.deepseek.serving_environment, which makes it.",
    )


def _hangs(reader: subprocess.Popen[bytes], timeout: float) -> Problem:
    """Give up; a process that waits in the driver cannot even be killed, so it is not waited for."""
    reader.kill()
    try:
        said = reader.communicate(timeout=GRACE_SECONDS)[1]
    except subprocess.TimeoutExpired as still:
        said = still.stderr or b""
    return Problem(
        "timeout",
        f"NVML gave no answer within {timeout:g} seconds; the last question was {last_line(said) or 'to load it'}",
        "Read the kernel log (journalctl --dmesg --grep NVRM) for Xid 79, 119 or 120. A driver that hangs needs a restart "
        "of the host; one that is only slow to start needs persistence mode, or a longer timeout.",
    )


def last_line(output: bytes) -> str:
    """Where a program that says each step stopped."""
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def driver_in(text: str) -> str | None:
    """The version of the kernel module, in the words of /proc/driver/nvidia/version."""
    found = re.search(r"Kernel Module\b.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else None
