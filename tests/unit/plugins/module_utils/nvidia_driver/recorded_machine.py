# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian 12 host with an H100, from a recorded bus and from what its tools printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver import apt as packages
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.host_state import Report
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.plan import examine
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.systems import Wish

RECORDED = Path(__file__).resolve().parents[4] / "fixtures" / "nvidia_driver"
KERNEL = "6.1.0-56-amd64"
OLD, NEW = "535.261.03", "535.309.01"
SOURCES = "deb http://deb.debian.org/debian bookworm main\n"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


class Machine:
    """A Debian 12 host below a directory, with an H100, and the programs that it has."""

    def __init__(self, directory: Path) -> None:
        self.root, self.sysfs, self.directory = (
            directory / "root",
            directory / "sys",
            directory / "apt",
        )
        self.directory.mkdir()
        self.write("etc/os-release", 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n')
        self.write("etc/apt/sources.list", SOURCES)
        self.write(f"boot/vmlinuz-{KERNEL}", "")
        (self.root / "vmlinuz").symlink_to(f"boot/vmlinuz-{KERNEL}")
        self.device("0000:00:06.0", "0x2330")
        self.packages = recorded("bookworm-dpkg-query.txt")
        self.policy = recorded("bookworm-policy.txt")
        self.simulated = (0, "Inst nvidia-smi (535.309.01-0+deb12u1 Debian [amd64])", "")
        self.dkms = f"nvidia-current/{OLD}, {KERNEL}, x86_64: installed\n"
        self.module = OLD
        self.update = (0, "", "")
        self.audit = ""
        self.commands: list[Sequence[str]] = []

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def device(self, address: str, device: str, kind: str = "0x030200") -> None:
        directory = self.sysfs / "bus" / "pci" / "devices" / address
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in {"vendor": "0x10de", "device": device, "class": kind}.items():
            (directory / name).write_text(f"{text}\n")

    def build(self) -> None:
        """Let the module be there, as DKMS leaves it."""
        self.write(f"lib/modules/{KERNEL}/updates/dkms/nvidia-current.ko", "")
        self.write(f"lib/modules/{KERNEL}/updates/dkms/nvidia-current-uvm.ko", "")

    def empty(self) -> None:
        """Let there be no driver yet."""
        self.packages = "".join(
            line for line in self.packages.splitlines(True) if "nvidia" not in line
        )
        self.dkms = ""

    def headers(self) -> None:
        self.write(f"lib/modules/{KERNEL}/build/Makefile", "")

    def run(self, command: Sequence[str]) -> tuple[int, str, str]:
        self.commands.append(command)
        program, rest = command[0], [one for one in command[1:] if "=" not in one]
        if program == "dpkg-query":
            return 0, self.packages, ""
        if program == "dpkg":
            return 0, self.audit, ""
        if program == "dkms":
            return 0, self.dkms, ""
        if program == "modinfo":
            return 0, f"filename:       {rest[0]}\nversion:        {self.module}\n", ""
        if program == "apt-cache":
            known = packages.parse_policy(self.policy)
            return 0, self.policy if rest[1] in known else f"{rest[1]}:\n  Installed: (none)\n", ""
        if program == "apt-get" and "update" in rest:
            return self.update
        assert program == "apt-get"
        assert "--simulate" in rest
        return self.simulated

    def examine(self, **wish: object) -> Report:
        asked = Wish(kernel_release=KERNEL, kernel_module="proprietary")
        for left in self.directory.iterdir():
            packages.shutil.rmtree(left)
        return examine(
            replace(asked, **wish),  # type: ignore[arg-type]
            self.run,
            self.root,
            self.sysfs,
            self.directory,
        )
