# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of an installation of the driver, each with its remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..common.findings import Finding
from . import apt as packages
from .apt import Apt, Package, Transaction
from .host_state import Report
from .systems import Wish

# What NVIDIA's own installer (.run) leaves behind, and no package has.
_RUNFILE = ("usr/bin/nvidia-uninstall", "usr/bin/nvidia-installer")


def disk_problems(free: Mapping[str, int], root: Path) -> Iterator[Finding]:
    """File systems with less free space than all directories on them need together, *free* in MiB by directory."""
    needs: dict[int, tuple[int, int, list[str]]] = {}
    for name, mebibytes in free.items():
        directory = _existing(root / name.lstrip("/"))
        state, device = os.statvfs(directory), directory.stat().st_dev
        _unused, need, names = needs.get(device, (0, 0, []))
        needs[device] = (state.f_bavail * state.f_frsize >> 20, need + mebibytes, [*names, name])
    for there, need, names in needs.values():
        if there < need:
            yield Finding(
                "nvidia_driver_free_mib",
                f"the file system of {', '.join(names)} has {there} MiB free, and {need} MiB are needed",
                "Free some space: apt-get clean, and remove kernels that are not used any more",
            )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def hardware_problems(report: Report, wish: Wish, root: Path) -> Iterator[Finding]:
    if not report.gpus:
        yield Finding(
            "nvidia_driver_sysfs",
            "the kernel sees no NVIDIA GPU",
            "Look at lspci -d 10de: and at the GPU's seat and power; or take the host out of those that get a driver",
        )
    boot = report.secure_boot
    if boot.enabled and not boot.enrolled:
        yield Finding(
            boot.certificate,
            "Secure Boot is on, and neither firmware nor shim trusts the key that DKMS signs modules with,"
            " so the kernel would refuse the driver",
            "Make the key if it is missing (dkms generate_mok; on Ubuntu update-secureboot-policy --new-key), run"
            f" mokutil --import {boot.certificate}, restart the host and choose 'Enroll MOK' on its console;"
            " or switch Secure Boot off in the firmware",
        )
    left = [f"/{name}" for name in _RUNFILE if (root / name).exists()]
    if left:
        yield Finding(
            left[0],
            "a driver was installed with NVIDIA's own installer (.run), whose files packages would overwrite only in part",
            "Remove it with nvidia-uninstall, and restart the host",
        )
    if report.nouveau and not wish.restart:
        yield Finding(
            "nvidia_driver_reboot",
            "it is never, and the nouveau driver has the GPU, which lets go of it only when the host starts without it",
            "Set it to if_needed; or block nouveau in /etc/modprobe.d, run update-initramfs -u and restart the host yourself",
        )


def audit_problems(manager: Apt) -> Iterator[Finding]:
    broken = manager.audit()
    if broken:
        yield Finding(
            "dpkg --audit",
            f"packages are not installed properly ({'; '.join(broken)})",
            "Repair them with dpkg --configure -a and apt-get --fix-broken install",
        )


def problems_in(problems: Sequence[Finding], where: str) -> list[Finding]:
    """Problems of one variable or file."""
    return [problem for problem in problems if problem.where == where]


def running_problems(report: Report, wish: Wish, version: str) -> Iterator[Finding]:
    if report.loaded and version and report.loaded != version and not wish.replace:
        yield Finding(
            "nvidia_driver_version",
            f"the kernel module {report.loaded} is loaded; with packages of {version} beside it, nothing on this host could"
            " use a GPU until it is unloaded or the host restarts",
            "Run onprem.deepseek.driver_upgrade, which drains one host after another",
        )


def transaction_problems(
    transaction: Transaction, report: Report, manager: Apt, found: Mapping[str, Package]
) -> Iterator[Finding]:
    if transaction.error:
        yield Finding(
            "apt-get --simulate install",
            f"the driver's packages cannot be installed together: {transaction.error}",
            "Check apt-mark showhold, /etc/apt/preferences.d and sources of other releases",
        )
    moved = [change.name for change in transaction.changes if packages.is_kernel(change.name)]
    if moved:
        yield Finding(
            "apt-get --simulate install",
            f"installing the driver would change the kernel ({', '.join(moved)})",
            "Upgrade the kernel first, as you always do, restart the host, and run this again",
        )
    gone = [
        change.name
        for change in transaction.changes
        if not change.new and not (report.unwanted and found[change.name].is_driver)
    ]
    if gone:
        yield Finding(
            "apt-get --simulate install",
            f"installing the driver would remove {', '.join(gone)}",
            "Remove them yourself if nobody needs them, or name a version that gets along with them",
        )
    held = manager.others_hold(transaction.changes, found)
    if held:
        yield Finding(
            "dpkg --get-selections",
            f"packages of the driver are held, and not by this role ({', '.join(held)})",
            f"Ask who holds them and why; then run apt-mark unhold {' '.join(held)}",
        )
