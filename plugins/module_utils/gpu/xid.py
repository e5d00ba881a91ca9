# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Xids: what NVIDIA's driver writes to the kernel log when something is wrong with a GPU, and what to do then.

The numbers and what they stand for are those of NVIDIA's "Xid Errors" (https://docs.nvidia.com/deploy/xid-errors/) and
of nverror.h in its open kernel modules; the remedies follow what the former says to do at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

CATALOGUE = "https://docs.nvidia.com/deploy/xid-errors/"

PROGRAM = "Most often the program is at fault, not the GPU: read the log of the process that is named, and restart it."
RESET = "Drain the host and reset the GPU (nvidia-smi --gpu-reset), or restart the host; if it comes back, have the GPU examined."
RESTART = "Drain the host and restart it; if it comes back, have the GPU and its slot examined."
EXAMINE = "Drain the host and have the GPU examined by its vendor (nvidia-bug-report.sh collects what it asks for)."
LINK = "Drain the host and reset its GPUs together; if it comes back, have the GPU, bridge or baseboard examined."
RECOVER = "The message says what the GPU needs (a reset, a restart of the host): drain the host and do that."
UNKNOWN = f"Look the number up in {CATALOGUE}."

_MEANINGS: dict[int, tuple[str, str]] = {
    8: ("GPU stopped processing", PROGRAM),
    13: ("exception in the graphics engine", PROGRAM),
    31: ("memory page fault", PROGRAM),
    32: ("corrupted push buffer", PROGRAM),
    38: ("error of the driver's firmware", RESET),
    43: ("GPU stopped processing for a program", PROGRAM),
    44: ("fault while switching contexts", RESET),
    45: ("work was removed after another error", PROGRAM),
    48: ("uncorrectable ECC error (double bit)", RESET),
    61: ("break point or warning of the internal microcontroller", RESET),
    62: ("halt of the internal microcontroller", RESET),
    63: ("memory row or page was marked for remapping", RESET),
    64: ("memory row or page could not be marked for remapping", EXAMINE),
    69: ("error of a class of the graphics engine", PROGRAM),
    74: ("NVLink error", LINK),
    79: ("GPU has fallen off the bus", RESTART),
    92: ("high rate of correctable ECC errors", EXAMINE),
    94: ("uncorrectable ECC error, contained in one program", RESET),
    95: ("uncorrectable ECC error, not contained", RESET),
    109: ("time-out while switching contexts", RESET),
    110: ("security fault", RESTART),
    119: ("GSP firmware did not answer in time", RESET),
    120: ("error of the GSP firmware", RESET),
    121: ("corrected error of the link between GPU and CPU", RESET),
    140: ("uncorrectable ECC error that was not recovered", RESET),
    143: ("GPU could not be initialised", RESET),
    154: ("GPU needs to be recovered", RECOVER),
}

# NVRM: Xid (PCI:0000:3b:00): 79, pid=..., GPU has fallen off the bus.
# NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 95, ... is one of a MIG instance.
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)[^)]*\): (\d+)(?:, *(.*))?")
_ADDRESS = re.compile(r"(?:([0-9A-Fa-f]+):)?([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})(?:\.[0-7])?")


@dataclass(frozen=True)
class Xid:
    """One kind of Xid of one GPU: how often it was logged, and the words of its last message."""

    pci: str
    number: int
    count: int
    message: str

    @property
    def meaning(self) -> str:
        return _MEANINGS[self.number][0] if self.number in _MEANINGS else "not in this table"

    @property
    def remedy(self) -> str:
        return _MEANINGS[self.number][1] if self.number in _MEANINGS else UNKNOWN

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times"
        return (
            f"Xid {self.number} ({self.meaning}) {times}, last: {self.message or 'no more is said'}"
        )


def address(pci: str) -> str:
    """A PCI address as all name it alike: NVML has longer domains than the kernel, and functions."""
    found = _ADDRESS.fullmatch(pci)
    if not found:
        return pci.lower()
    return f"{int(found[1] or '0', 16):04x}:{found[2]}:{found[3]}".lower()


def xids_in(lines: Iterable[str]) -> tuple[Xid, ...]:
    """The Xids in lines of the kernel log, by GPU and number, in the order in which they came first."""
    found: dict[tuple[str, int], Xid] = {}
    for line in lines:
        match = _XID.search(line)
        if match:
            key = address(match[1]), int(match[2])
            before = found[key].count if key in found else 0
            found[key] = Xid(*key, before + 1, (match[3] or "").strip())
    return tuple(found.values())
