# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVML's codes (nvmlReturn_t in nvml.h), and what to do about each. One that stands for the whole GPU is told once, whatever was asked."""

from __future__ import annotations

DRIVER_MISMATCH = (
    "An update has replaced the one and not the other: drain the host, then unload and load the nvidia modules, or restart "
    "the host. Hold the driver's packages, so that nothing updates them unasked."
)
NOT_SUPPORTED, MISMATCH = 3, 18
# The GPU as a whole does not answer any more, so that each question has this answer.
OF_THE_WHOLE_GPU = (8, 11, 15, 16, 28)

LOOK = "Run nvidia-smi -q on the host and read the kernel log (journalctl --dmesg --grep NVRM)."
_NEWER = "Install the nvidia-ml-py that belongs to the driver: the driver and the binding do not know the same questions."
_AGAIN = "Run this again; if the answer stays, drain the host and restart it."
_REMEDIES = {
    1: _AGAIN,
    2: _NEWER,
    4: "Run the task with become: true; this user may not open /dev/nvidiactl.",
    6: LOOK,
    7: _NEWER,
    8: "Connect the GPU's power cables, and power the host on again.",
    9: (
        "Load the module (modprobe nvidia). Where that fails, its message says why: it was not built for the running "
        "kernel (dkms status), or Secure Boot refuses it (mokutil --sb-state)."
    ),
    10: _AGAIN,
    11: "Drain the host and restart it; the kernel cannot deliver the GPU's interrupts (journalctl --dmesg --grep NVRM).",
    12: "Install NVIDIA's driver with its NVML library (libnvidia-ml.so.1; on Debian the package libnvidia-ml1).",
    13: _NEWER,
    14: "Have the GPU's InfoROM examined by its vendor (nvidia-bug-report.sh collects what it asks for).",
    15: "Look for Xid 79 in the kernel log, then power the host off and on again.",
    16: "Drain the host and reset the GPU (nvidia-smi --gpu-reset), or restart the host.",
    17: "Look for what blocks the GPU in the kernel log: a container's device rules, or a security module.",
    MISMATCH: DRIVER_MISMATCH,
    19: "Stop what uses the GPU (nvidia-smi lists it), and run this again.",
    20: "Free memory of the host, and run this again.",
    23: "Free memory of the host, and run this again.",
    25: _NEWER,
    26: _NEWER,
    27: _AGAIN,
    28: "Look for Xid 79 in the kernel log, then power the host off and on again.",
    999: LOOK,
}


def of_nvml(code: int | None) -> str:
    """What to do when NVML, or a GPU as a whole, refuses to answer."""
    return _REMEDIES.get(code, LOOK) if code is not None else LOOK


def remedy_of(code: int | None, name: str) -> str:
    """What to do when NVML does not give one value, which expectation *name* judges; None is a binding that has no such question."""
    if code in (None, NOT_SUPPORTED, 21, 22):
        return f"Set {name} to null where this product has no such thing; a newer nvidia-ml-py may ask in another way."
    return of_nvml(code)
