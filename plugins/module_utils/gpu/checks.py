# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a host's GPUs are not as expected: each finding with the value that was found and a remedy.

A check has the name of the expectation that it judges. What NVML does not say is never taken for good: an
expectation that a product cannot meet has to be set to null by an operator who knows that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from .expectations import Expectations
from .host import Host, Process
from .nvml_codes import DRIVER_MISMATCH, remedy_of
from .snapshot import Gpu
from .verdict import HOST, Check, Verdict, check_of
from .xid import Xid, address

# The slowest performance state in which the link to the host is not slowed down to save power.
LOADED_STATE = 2
# NVML's words for what a product does not have.
NOT_SUPPORTED = "Not Supported"


@dataclass(frozen=True)
class Seen:
    """A GPU with what the host knows of it."""

    gpu: Gpu
    processes: Sequence[Process]
    xids: Sequence[Xid]


# What is found: the checks, of the host and of each GPU.


def judge(host: Host, expectations: Expectations) -> list[Check]:
    """Every check of the host and of each of its GPUs."""
    return [*_host_checks(host, expectations), *_gpus_checks(host, expectations)]


def _host_checks(host: Host, expectations: Expectations) -> Iterator[Check]:
    yield check_of(HOST, "nvml", nvml_answers(host))
    for name, judge_it in _HOST.items():
        wanted = getattr(expectations, name)
        if wanted is not None and (host.snapshot.problem is None or name in _WITHOUT_NVML):
            yield check_of(HOST, name, judge_it(host, wanted))


def _gpus_checks(host: Host, expectations: Expectations) -> Iterator[Check]:
    for gpu, processes in zip(host.snapshot.gpus, host.processes):
        subject = subject_of(gpu)
        if gpu.problem:
            verdict = Verdict(False, gpu.problem.detail, gpu.problem.remedy)
            yield check_of(subject, "nvml", verdict)
            continue
        seen = Seen(gpu, processes, [xid for xid in host.xids if is_of(xid, gpu)])
        for name, judge_it in _GPU.items():
            wanted = getattr(expectations, name)
            if wanted is not None:
                yield check_of(subject, name, judge_it(seen, wanted))


def subject_of(gpu: Gpu) -> str:
    """A GPU as checks name it."""
    return f"GPU {gpu.index}" + (f" {gpu.uuid}" if gpu.uuid else "")


def is_of(xid: Xid, gpu: Gpu) -> bool:
    return gpu.pci_bus_id is not None and address(gpu.pci_bus_id) == xid.pci


def _silent(gpu: Gpu, field: str, name: str) -> Verdict:
    """NVML did not say it, so it is not known to be good."""
    reason = gpu.errors.get(field, "no reason is given")
    remedy = remedy_of(gpu.codes.get(field), name)
    return Verdict(False, f"NVML does not say {field}: {reason}", remedy)


# The checks of the host.


def nvml_answers(host: Host) -> Verdict:
    """Whether NVML answers at all."""
    snapshot = host.snapshot
    if snapshot.problem:
        return Verdict(False, snapshot.problem.detail, snapshot.problem.remedy)
    detail = (
        f"NVML answers: driver {snapshot.driver}, CUDA {snapshot.cuda}, {_gpus(len(snapshot.gpus))}"
    )
    return Verdict(True, detail, "")


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _count(host: Host, wanted: int) -> Verdict:
    answering = sum(gpu.problem is None for gpu in host.snapshot.gpus)
    on_bus = ", ".join(host.pci_gpus) or "none"
    return Verdict(
        answering >= max(wanted, len(host.pci_gpus)),
        f"{_gpus(answering)} of {wanted} answer, on the PCI bus: {on_bus}",
        "A GPU that is on the bus and does not answer has its reason in the kernel log (journalctl --dmesg --grep NVRM). One "
        "that is not on the bus needs the host powered off and on, then its seat and its power cables looked at. If there are "
        "meant to be fewer, correct count.",
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _driver(host: Host, wanted: str) -> Verdict:
    driver = host.snapshot.driver
    return Verdict(
        driver is not None and _numbers(driver) >= _numbers(wanted),
        f"driver {driver or 'unknown'}, at least {wanted} is expected",
        f"Install driver {wanted} or newer.",
    )


def _same_driver(host: Host, wanted: bool) -> Verdict:
    module, library = host.kernel_module, host.snapshot.library
    if library is None:
        remedy = "Do first what is said of nvml."
    elif module is None:
        remedy = "Load the module (modprobe nvidia); its message, or dkms status, says why it is not loaded."
    else:
        remedy = DRIVER_MISMATCH
    return Verdict(
        not wanted or (module is not None and module == library),
        f"kernel module {module or 'not loaded'}, library {library or 'unknown'}",
        remedy,
    )


def _host_xids(host: Host, accepted: Sequence[int]) -> Verdict:
    if host.log_problem:
        return Verdict(
            False,
            f"the kernel log cannot be read: {host.log_problem}",
            "Run the task with become: true.",
        )
    others = [xid for xid in host.xids if not any(is_of(xid, gpu) for gpu in host.snapshot.gpus)]
    return _xids(others, accepted, "no Xid of a GPU that does not answer")


_HOST: dict[str, Callable[[Host, Any], Verdict]] = {
    "count": _count,
    "driver": _driver,
    "same_driver": _same_driver,
    "xids": _host_xids,
}
_WITHOUT_NVML = ("same_driver", "xids")


# The checks of a GPU.


def _products(seen: Seen, wanted: Sequence[str]) -> Verdict:
    product = seen.gpu.product
    if product is None:
        return _silent(seen.gpu, "product", "products")
    return Verdict(
        not wanted or any(fnmatchcase(product, pattern) for pattern in wanted),
        f"product {product}" + (f", expected: {', '.join(wanted)}" if wanted else ""),
        "Correct products, or take this GPU out of the host.",
    )


def _memory(seen: Seen, wanted: float) -> Verdict:
    total = seen.gpu.memory_total_bytes
    if total is None:
        return _silent(seen.gpu, "memory_total_bytes", "memory_gb")
    return Verdict(
        total >= wanted * 1e9,
        f"{total / 1e9:.1f} GB of memory, at least {wanted:g} GB are expected",
        "Choose a model and precision that fit and correct memory_gb, or use a larger GPU.",
    )


def _capability(seen: Seen, wanted: str) -> Verdict:
    found = seen.gpu.compute_capability
    if found is None:
        return _silent(seen.gpu, "compute_capability", "compute_capability")
    return Verdict(
        _numbers(found) >= _numbers(wanted),
        f"compute capability {found}, at least {wanted} is expected",
        "Correct compute_capability where the engine's flavour supports this GPU, or use a newer one.",
    )


def _on(value: bool) -> str:
    return "on" if value else "off"


def _ecc(seen: Seen, wanted: bool) -> Verdict:
    mode, pending = seen.gpu.ecc_mode, seen.gpu.ecc_mode_pending
    if mode is None or pending is None:
        return _silent(seen.gpu, "ecc_mode", "ecc")
    return Verdict(
        mode == pending == wanted,
        f"ECC is {_on(mode)}, and {_on(pending)} after the next reset; expected: {_on(wanted)}",
        f"Run nvidia-smi --id={seen.gpu.uuid} --ecc-config={int(wanted)}, then reset the GPU or restart the host.",
    )


def _uncorrected(counter: str, since: str, remedy: str) -> Callable[[Seen, int], Verdict]:
    name = f"ecc_{counter}_uncorrected"

    def judge_it(seen: Seen, most: int) -> Verdict:
        count = getattr(seen.gpu, name)
        if count is None:
            return _silent(seen.gpu, name, name)
        detail = f"uncorrected ECC errors {since}: {count}, at most {most} are accepted"
        return Verdict(count <= most, detail, remedy)

    return judge_it


def _row_remap(seen: Seen, wanted: bool) -> Verdict:
    gpu = seen.gpu
    # GPUs before Ampere retire pages in place of remapping rows.
    pending, failed = gpu.remapped_rows_pending, gpu.remapped_rows_failed
    if pending is None:
        pending, failed = gpu.retired_pages_pending, False
    if pending is None:
        return _silent(gpu, "remapped_rows_pending", "row_remap")
    rows = f"{gpu.remapped_rows_corrected} after corrected and {gpu.remapped_rows_uncorrected} after uncorrected errors"
    state = "has failed" if failed else "is pending" if pending else "is not due"
    return Verdict(
        not (wanted and (failed or pending)),
        f"row remapping {state}; rows remapped: {rows}",
        "Have the GPU replaced: it has no spare row left where one is needed."
        if failed
        else "Drain the host and reset the GPU (nvidia-smi --gpu-reset), or restart the host: that puts the spare row to use.",
    )


_RESEAT = (
    "Reseat the GPU and its riser, and look at the slot's lanes and speed in the firmware's set-up; lspci -vv -s {bus} shows "
    "what the link can do (LnkCap) and does (LnkSta)."
)


def _reseat(gpu: Gpu) -> str:
    return _RESEAT.format(bus=address(gpu.pci_bus_id or ""))


def _pcie_generation(seen: Seen, wanted: int | str) -> Verdict:
    gpu = seen.gpu
    now, possible = gpu.pcie_generation, gpu.pcie_generation_max
    if now is None or possible is None:
        missing = "pcie_generation" if now is None else "pcie_generation_max"
        return _silent(gpu, missing, "pcie_generation")
    least = possible if isinstance(wanted, str) else wanted
    state = gpu.performance_state
    # An idle link slows down by itself; what it can do is judged, and what it does is only told.
    resting = state is not None and state > LOADED_STATE
    idle = f", while the GPU rests in P{state}" if resting and now < least else ""
    return Verdict(
        (possible if resting else now) >= least,
        f"PCIe generation {now}{idle}; GPU and slot support {possible}, at least {least} is expected",
        _reseat(gpu),
    )


def _pcie_width(seen: Seen, wanted: int | str) -> Verdict:
    gpu = seen.gpu
    now, possible = gpu.pcie_width, gpu.pcie_width_max
    if now is None or possible is None:
        return _silent(gpu, "pcie_width" if now is None else "pcie_width_max", "pcie_width")
    least = possible if isinstance(wanted, str) else wanted
    detail = f"PCIe x{now}; GPU and slot support x{possible}, at least x{least} is expected"
    return Verdict(now >= least, detail, _reseat(gpu))


def _nvlinks(seen: Seen, wanted: int | str) -> Verdict:
    links = seen.gpu.nvlinks
    active = [link for link in links if link.active]
    down = ", ".join(str(link.link) for link in links if not link.active)
    # A PCIe card has links for a bridge, and may be without one.
    bridged = any(word in (seen.gpu.product or "") for word in ("PCIe", "NVL"))
    enough = len(active) == len(links) or (bridged and not active)
    return Verdict(
        enough if isinstance(wanted, str) else len(active) >= wanted,
        f"{len(active)} of {len(links)} NVLinks are up"
        + (f", down: {down}" if down else "")
        + f"; expected: {wanted}",
        "Look for Xid 74 in the kernel log, and at nvidia-smi nvlink --status; check that Fabric Manager runs where there is an "
        "NVSwitch, then reset the GPUs together. A link that stays down is a bridge or baseboard to be examined.",
    )


def _fabric(seen: Seen, wanted: bool) -> Verdict:
    gpu = seen.gpu
    state = gpu.fabric_state
    if state is None and gpu.errors.get("fabric_state") != NOT_SUPPORTED:
        return _silent(gpu, "fabric_state", "fabric")
    if state in (None, "not_supported"):
        return Verdict(True, "this GPU is on no NVSwitch fabric", "")
    return Verdict(
        not wanted or (state == "completed" and gpu.fabric_status == 0),
        f"joining the NVSwitch fabric is {state}, with status {gpu.fabric_status}",
        "Install Fabric Manager in exactly the driver's version and run systemctl enable --now nvidia-fabricmanager; its log says "
        "what it waits for. Until it is done, CUDA does not start on this GPU.",
    )


COOLING = "Look at fans, inlet temperature and heat sinks."
_POWER = "Look at the power supplies and their cables: the server holds the GPU back."
_CAP = "The power limit is reached: that is ordinary under full load, else raise the limit."
THROTTLE = {
    "sw_power_cap": (_CAP,),
    "hw_slowdown": (COOLING, _POWER),
    "sw_thermal_slowdown": (COOLING,),
    "hw_thermal_slowdown": (COOLING,),
    "hw_power_brake_slowdown": (_POWER,),
}


def _throttle(seen: Seen, accepted: Sequence[str]) -> Verdict:
    reasons = seen.gpu.throttle_reasons
    if reasons is None:
        return _silent(seen.gpu, "throttle_reasons", "throttle_reasons")
    others = [reason for reason in reasons if reason not in accepted]
    remedies = dict.fromkeys(text for reason in others for text in THROTTLE.get(reason, ()))
    return Verdict(
        not others,
        f"clocks are held down by: {', '.join(reasons) or 'nothing'}; accepted: {', '.join(accepted) or 'nothing'}",
        " ".join([*remedies, "A reason that is wanted belongs in throttle_reasons."]),
    )


def _temperature(seen: Seen, most: float) -> Verdict:
    found = seen.gpu.temperature_celsius
    if found is None:
        return _silent(seen.gpu, "temperature_celsius", "temperature_celsius")
    return Verdict(found <= most, f"{found} °C, at most {most:g} °C are expected", COOLING)


def _margin(seen: Seen, least: float) -> Verdict:
    gpu = seen.gpu
    margin = gpu.temperature_margin_celsius
    if margin is None and None not in (gpu.temperature_slowdown_celsius, gpu.temperature_celsius):
        margin = (gpu.temperature_slowdown_celsius or 0) - (gpu.temperature_celsius or 0)
    if margin is None:
        return _silent(gpu, "temperature_margin_celsius", "temperature_margin_celsius")
    detail = f"{margin} °C below the limit at which the GPU slows down, at least {least:g} °C are expected"
    return Verdict(margin >= least, detail, COOLING)


def _power(seen: Seen, wanted: float | str) -> Verdict:
    gpu = seen.gpu
    limit = gpu.power_limit_watts
    least = gpu.power_limit_default_watts if isinstance(wanted, str) else wanted
    if limit is None or least is None:
        missing = "power_limit_watts" if limit is None else "power_limit_default_watts"
        return _silent(gpu, missing, "power_limit_watts")
    return Verdict(
        limit >= least,
        f"the power limit is {limit:g} W, at least {least:g} W are expected",
        f"Run nvidia-smi --id={gpu.uuid} --power-limit={least:g}, or set power_limit_watts to the limit that is wanted.",
    )


def _persistence(seen: Seen, wanted: bool) -> Verdict:
    mode = seen.gpu.persistence_mode
    if mode is None:
        return _silent(seen.gpu, "persistence_mode", "persistence")
    return Verdict(
        mode == wanted,
        f"persistence mode is {_on(mode)}, expected: {_on(wanted)}",
        f"Run systemctl {'enable' if wanted else 'disable'} --now nvidia-persistenced.",
    )


def _mig(seen: Seen, wanted: bool) -> Verdict:
    mode, pending = seen.gpu.mig_mode, seen.gpu.mig_mode_pending
    if mode is None or pending is None:
        if not wanted and seen.gpu.errors.get("mig_mode") == NOT_SUPPORTED:
            return Verdict(True, "this product has no MIG", "")
        return _silent(seen.gpu, "mig_mode", "mig")
    return Verdict(
        mode == pending == wanted,
        f"MIG is {_on(mode)}, and {_on(pending)} after the next reset; expected: {_on(wanted)}",
        f"Drain the host, run nvidia-smi --id={seen.gpu.uuid} --multi-instance-gpu={int(wanted)}, then reset the GPU or restart the host.",
    )


def _processes(seen: Seen, accepted: Sequence[str]) -> Verdict:
    if seen.gpu.processes is None:
        return _silent(seen.gpu, "processes", "processes")
    foreign = [process for process in seen.processes if not _is_accepted(process, accepted)]
    known = len(seen.processes) - len(foreign)
    return Verdict(
        not foreign,
        f"foreign processes: {', '.join(map(words_of, foreign)) or 'none'}; accepted ones: {known}",
        "Stop them, or add the name of the command or systemd unit to processes.",
    )


def _is_accepted(process: Process, accepted: Sequence[str]) -> bool:
    names = [name for name in (process.command, process.unit) if name]
    return any(fnmatchcase(name, pattern) for name in names for pattern in accepted)


def words_of(process: Process) -> str:
    """A process in words."""
    memory = f", {process.memory_bytes / 1e6:.0f} MB" if process.memory_bytes else ""
    return f"{process.pid} ({process.command or 'unknown'}, {process.unit or 'no unit'}{memory})"


def _gpu_xids(seen: Seen, accepted: Sequence[int]) -> Verdict:
    return _xids(seen.xids, accepted, "no Xid since the host started")


def _xids(found: Sequence[Xid], accepted: Sequence[int], none: str) -> Verdict:
    bad = [xid for xid in found if xid.number not in accepted]
    remedies = dict.fromkeys(xid.remedy for xid in bad)
    return Verdict(
        not bad,
        "; ".join(map(str, bad)) or none,
        " ".join([*remedies, "A restart begins a new log; a number in xids is accepted."]),
    )


_GPU: dict[str, Callable[[Seen, Any], Verdict]] = {
    "products": _products,
    "memory_gb": _memory,
    "compute_capability": _capability,
    "ecc": _ecc,
    "ecc_volatile_uncorrected": _uncorrected(
        "volatile",
        "since the driver was loaded",
        "Drain the host and reset the GPU, or restart the host; if errors come back, have the GPU examined.",
    ),
    "ecc_aggregate_uncorrected": _uncorrected(
        "aggregate",
        "in the GPU's life",
        "Have the GPU examined; if its vendor finds it sound, set ecc_aggregate_uncorrected to the number that is known.",
    ),
    "row_remap": _row_remap,
    "pcie_generation": _pcie_generation,
    "pcie_width": _pcie_width,
    "nvlinks": _nvlinks,
    "fabric": _fabric,
    "throttle_reasons": _throttle,
    "temperature_celsius": _temperature,
    "temperature_margin_celsius": _margin,
    "power_limit_watts": _power,
    "persistence": _persistence,
    "mig": _mig,
    "processes": _processes,
    "xids": _gpu_xids,
}
