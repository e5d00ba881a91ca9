# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVIDIA's devices as the kernel lists them, and which kernel module and driver branch they can have.

Nothing here needs a driver: the PCI identifiers are in sysfs as soon as the kernel runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.host_bytes import read_text

NVIDIA = "0x10de"
# PCI class codes, base and sub-class: VGA and 3D controllers are GPUs, an NVSwitch is a bridge of the kind "other".
_GPU_CLASSES = ("0x0300", "0x0302")
_BRIDGE_CLASS = "0x0680"
# Driver of devices that belong to a virtual machine.
_PASSED_THROUGH = "vfio-pci"

OPEN = "open"
PROPRIETARY = "proprietary"

# First PCI device identifier of each range, and the architecture of the GPUs in it (https://pci-ids.ucw.cz, vendor 10de).
_RANGES: tuple[tuple[int, str], ...] = (
    (0x0000, "kepler or older"),
    (0x1340, "maxwell"),
    (0x15F0, "pascal"),
    (0x1600, "maxwell"),
    (0x1700, "pascal"),
    (0x1740, "maxwell"),
    (0x1AD0, "turing"),
    (0x1AEF, "ampere"),
    (0x1B00, "pascal"),
    (0x1D80, "volta"),
    (0x1E00, "turing"),
    (0x2080, "ampere"),
    (0x2100, "turing"),
    (0x2200, "ampere"),
    (0x22B0, "ada"),
    (0x2300, "hopper"),
    (0x2400, "ampere"),
    (0x2680, "ada"),
    (0x2900, "blackwell or newer"),
)
_FIRSTS = tuple(first for first, _unused in _RANGES)


@dataclass(frozen=True)
class Support:
    """What an architecture can have: kernel modules, and the first and last branch of the driver, None where there is no end.

    The source is NVIDIA's README of each branch ("Supported NVIDIA GPU Products") and of the open kernel modules.
    """

    modules: tuple[str, ...]
    first_branch: int
    last_branch: int | None = None


SUPPORT = {
    "kepler or older": Support((PROPRIETARY,), 340, 470),
    "maxwell": Support((PROPRIETARY,), 340, 580),
    "pascal": Support((PROPRIETARY,), 367, 580),
    "volta": Support((PROPRIETARY,), 384, 580),
    "turing": Support((OPEN, PROPRIETARY), 410),
    "ampere": Support((OPEN, PROPRIETARY), 450),
    "ada": Support((OPEN, PROPRIETARY), 525),
    "hopper": Support((OPEN, PROPRIETARY), 515),
    "blackwell or newer": Support((OPEN,), 570),
}


@dataclass(frozen=True)
class Device:
    """A PCI device: its address, its device identifier, what it is, and the kernel driver that has it, empty for none."""

    address: str
    device: int
    architecture: str
    driver: str


def architecture_of(device: int) -> str:
    """Architecture of a GPU by its PCI device identifier."""
    return _RANGES[bisect_right(_FIRSTS, device) - 1][1]


def gpus(sysfs: Path) -> list[Device]:
    """NVIDIA's GPUs, without those that a virtual machine has."""
    return [device for device in _devices(sysfs, _GPU_CLASSES) if device.driver != _PASSED_THROUGH]


def nvswitches(sysfs: Path) -> list[Device]:
    """NVSwitches that are PCI devices of their own: those of HGX A100 and HGX H100, not those of HGX B200."""
    return list(_devices(sysfs, (_BRIDGE_CLASS,)))


def _devices(sysfs: Path, classes: tuple[str, ...]) -> Iterator[Device]:
    directory = sysfs / "bus" / "pci" / "devices"
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if text(path / "vendor") != NVIDIA or not text(path / "class").startswith(classes):
            continue
        device = int(text(path / "device") or "0", 16)
        driver = path / "driver"
        yield Device(
            path.name,
            device,
            architecture_of(device),
            driver.resolve().name if driver.is_symlink() else "",
        )


def text(path: Path) -> str:
    """What a file of the kernel holds, empty if it cannot be read."""
    try:
        return read_text(path).strip()
    except OSError:
        return ""


def module_for(
    devices: Sequence[Device], wish: str, preferred: str = OPEN
) -> tuple[str, list[str]]:
    """Kernel module for these GPUs, V(open) or V(proprietary), and what is wrong with *wish*.

    With V(auto) it is the preferred one wherever all GPUs can have it. Before Turing there is no open one, from Blackwell on no other.
    """
    possible = [SUPPORT[device.architecture].modules for device in devices]
    common = [name for name in (OPEN, PROPRIETARY) if all(name in names for names in possible)]
    if not common:
        listed = ", ".join(f"{device.address} {device.architecture}" for device in devices)
        return OPEN if wish == "auto" else wish, [
            f"no kernel module drives all GPUs of this host together ({listed})"
        ]
    if wish == "auto":
        return (preferred if preferred in common else common[0]), []
    wrong = [device for device in devices if wish not in SUPPORT[device.architecture].modules]
    return wish, [
        f"GPU {device.address} ({device.architecture}) cannot have the {wish} kernel module"
        for device in wrong
    ]


def branch_problems(devices: Sequence[Device], version: str) -> list[str]:
    """What keeps a driver of *version* (as 535.261.03) from driving these GPUs."""
    branch = int(version.partition(".")[0]) if version.partition(".")[0].isdecimal() else 0
    found = []
    for name in dict.fromkeys(device.architecture for device in devices):
        support = SUPPORT[name]
        if branch < support.first_branch:
            found.append(f"GPUs of {name} need a driver of branch {support.first_branch} or later")
        elif support.last_branch is not None and branch > support.last_branch:
            found.append(f"the last branch that drives GPUs of {name} is {support.last_branch}")
    return found
