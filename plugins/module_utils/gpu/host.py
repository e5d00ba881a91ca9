# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules that look at GPUs share: their arguments, and everything that they read from a host."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..common.commands import Run, module_runner
from . import pci
from .snapshot import Snapshot, driver_in, take
from .xid import Xid, xids_in

# The journal has all since the host started; the kernel's own buffer forgets, and is for hosts without a journal.
_LOGS = (
    ("journalctl", "--dmesg", "--boot", "--quiet", "--no-pager", "--output=short-iso"),
    ("dmesg", "--time-format=iso"),
)
ROOT = Path("/")


@dataclass(frozen=True)
class Process:
    """A process on a GPU; ``unit`` is the systemd unit that it runs in, if it is in one."""

    pid: int
    kind: str
    memory_bytes: int | None
    command: str
    unit: str


@dataclass(frozen=True)
class Host:
    """A host with its GPUs.

    ``processes`` has those of each GPU by its index; ``pci_gpus`` are the addresses of NVIDIA's GPUs that the kernel
    sees, with a driver or without, and has not given to a virtual machine; ``log_problem`` is why the kernel log could not be read.
    """

    snapshot: Snapshot
    kernel_module: str | None = None
    pci_gpus: tuple[str, ...] = ()
    processes: tuple[tuple[Process, ...], ...] = ()
    xids: tuple[Xid, ...] = ()
    log_problem: str = ""


def arguments() -> dict[str, Any]:
    """Arguments of gpu_info and gpu_validate, as in the documentation fragment."""
    return {
        "venv": {"type": "path"},
        "wheel": {"type": "path"},
        "timeout": {"type": "float", "default": 60.0},
    }


def read_host(module: Any) -> Host:
    """Read everything, with the arguments of a module."""
    params = module.params
    wheels = [params["wheel"]] if params["wheel"] else []
    return read(module, python_of(params["venv"]), wheels, params["timeout"])


def python_of(venv: str | None) -> str:
    """The Python of an environment, or the one that runs this."""
    return os.path.join(venv, "bin", "python") if venv else sys.executable


def read(module: Any, python: str, paths: Sequence[str], timeout: float) -> Host:
    """Read everything, with NVIDIA's binding in *paths* or that of a Python."""
    lines, log_problem = kernel_log(module_runner(module))
    return host_of(take(python, paths, timeout), ROOT, lines, log_problem)


def kernel_log(run: Run) -> tuple[list[str], str]:
    """The kernel's messages since the host started, or why there are none: no kernel starts without a word."""
    reasons = []
    for command in _LOGS:
        rc, stdout, stderr = run(command)
        # by newline alone: a process may have any other character in its name
        lines = stdout.rstrip("\n").split("\n") if stdout else []
        if rc == 0 and lines:
            return lines, ""
        reasons.append(f"{command[0]}: {stderr.strip() or 'no lines'}")
    return [], "; ".join(reasons)


def host_of(snapshot: Snapshot, root: Path, lines: Sequence[str], log_problem: str) -> Host:
    """Join what NVML said with what the kernel says below *root*."""
    return Host(
        snapshot=snapshot,
        kernel_module=driver_in(pci.text(root / "proc/driver/nvidia/version")),
        pci_gpus=tuple(device.address for device in pci.gpus(root / "sys")),
        processes=tuple(
            tuple(
                Process(use.pid, use.kind, use.memory_bytes, *_owner(root / "proc" / str(use.pid)))
                for use in gpu.processes or ()
            )
            for gpu in snapshot.gpus
        ),
        xids=xids_in(lines),
        log_problem=log_problem,
    )


def _owner(process: Path) -> tuple[str, str]:
    """Command and unit of a process; a unit's name is the last part of its control group that ends as units do."""
    parts = pci.text(process / "cgroup").split("/")
    units = [part for part in parts if part.endswith((".service", ".scope"))]
    return pci.text(process / "comm"), units[-1] if units else ""


def facts(host: Host) -> dict[str, Any]:
    """A host as a module's result."""
    snapshot = host.snapshot
    return {
        "driver": snapshot.driver,
        "library": snapshot.library,
        "kernel_module": host.kernel_module,
        "cuda": snapshot.cuda,
        "gpus": [
            {
                **asdict(gpu),
                "processes": None if gpu.processes is None else [asdict(one) for one in processes],
            }
            for gpu, processes in zip(snapshot.gpus, host.processes)
        ],
        "pci_gpus": list(host.pci_gpus),
        "xids": [
            {**asdict(xid), "meaning": xid.meaning, "remedy": xid.remedy} for xid in host.xids
        ],
        "log_problem": host.log_problem,
        "problem": asdict(snapshot.problem) if snapshot.problem else None,
    }
