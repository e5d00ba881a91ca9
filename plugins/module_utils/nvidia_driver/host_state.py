# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has of NVIDIA's driver: modules that DKMS built, kernels, Secure Boot."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..common.commands import Run
from ..common.findings import Finding
from ..gpu import pci
from .apt import Package, Transaction

# UEFI specification 2.10, sections 3.3 and 32.4: GUIDs of the global variables and of the signature databases; shim's own.
_SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_TRUSTED = (
    "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f",
    "MokListRT*-605dab50-e046-4300-abb6-3dd810dd8b23",
)
_EFI_ATTRIBUTES = 4  # bytes before a variable's value in efivarfs
_DKMS = re.compile(r"^(nvidia[\w-]*)[/,]\s*([^,:\s]+)(?:,\s*([^,]+),\s*([^:,]+))?:\s*(\w+)")


@dataclass(frozen=True)
class Build:
    """A kernel module as DKMS has it. ``file`` and what modinfo says of it are empty as long as it is not installed."""

    name: str
    version: str
    kernel: str
    state: str
    file: str = ""
    file_version: str = ""
    signer: str = ""


@dataclass(frozen=True)
class Kernels:
    """What the host starts with: installed kernel packages with versions, images in /boot, and which is the default."""

    packages: Mapping[str, str]
    images: tuple[str, ...]
    default: str


@dataclass(frozen=True)
class SecureBoot:
    """Whether it is on, and whether the firmware or shim trusts the key that DKMS signs with."""

    enabled: bool
    certificate: str
    enrolled: bool


@dataclass(frozen=True)
class Report:
    """Everything that is known of a host."""

    gpus: tuple[pci.Device, ...] = ()
    nvswitches: tuple[pci.Device, ...] = ()
    kernel_module: str = ""
    version: str = ""
    versions: tuple[str, ...] = ()
    installed: tuple[Package, ...] = ()
    wanted: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    sources: str = ""
    preferences: str = ""
    needed: bool = False
    transaction: Transaction = field(default_factory=Transaction)
    build: Build | None = None
    builds: tuple[Build, ...] = ()
    kernels: Kernels = field(default_factory=lambda: Kernels({}, (), ""))
    secure_boot: SecureBoot = field(default_factory=lambda: SecureBoot(False, "", False))
    loaded: str = ""
    nouveau: bool = False
    problems: tuple[Finding, ...] = ()


def secure_boot(sysfs: Path, root: Path, certificate: str) -> SecureBoot:
    """State of Secure Boot from efivarfs; a host without UEFI has none."""
    variables = sysfs / "firmware" / "efi" / "efivars"
    enabled = _efi(variables / _SECURE_BOOT)[:1] == b"\x01"
    key = _bytes(root / certificate.lstrip("/"))
    trusted = b"".join(
        _efi(path)
        for name in _TRUSTED
        for path in sorted(variables.glob(name) if variables.is_dir() else ())
    )
    return SecureBoot(enabled, certificate, bool(key) and key in trusted)


def _efi(path: Path) -> bytes:
    return _bytes(path)[_EFI_ATTRIBUTES:]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def parse_dkms(output: str) -> list[Build]:
    """NVIDIA's modules in the output of dkms status."""
    found = []
    for line in output.splitlines():
        entry = _DKMS.match(line)
        if entry:
            name, version, kernel, _unused, state = entry.groups(default="")
            found.append(Build(name, version, kernel.strip(), state))
    return found


def builds(run: Run, root: Path, release: str) -> list[Build]:
    """NVIDIA's modules that DKMS knows, with what is installed for the kernel *release*."""
    found = parse_dkms(run(["dkms", "status"])[1])
    file = _module_file(root, release)
    here = [one for one in found if one.kernel == release and one.state == "installed"]
    if not file or not here:
        return found
    says = _modinfo(run, file)
    version, signer = says.get("version", ""), says.get("signer", "")
    return [
        replace(build, file=str(file), file_version=version, signer=signer)
        if build in here
        else build
        for build in found
    ]


def _module_file(root: Path, release: str) -> Path | None:
    """NVIDIA's kernel module among those that were built on the host; Debian names it after its alternative."""
    directory = root / "lib" / "modules" / release
    for part in ("updates", "extra", "weak-updates"):
        for path in sorted((directory / part).rglob("nvidia*.ko*")):
            if re.fullmatch(r"nvidia(-current(-open)?)?\.ko(\.\w+)?", path.name):
                return path
    return None


def _modinfo(run: Run, file: Path) -> dict[str, str]:
    """What modinfo says of *file*, by field; asked once, as it takes a second for a compressed one."""
    lines = [line.partition(":") for line in run(["modinfo", str(file)])[1].splitlines()]
    return {field.strip(): value.strip() for field, _colon, value in lines}


def kernels(root: Path, installed: Mapping[str, Package]) -> Kernels:
    """Kernels of the host, and which starts by default: the saved entry of GRUB, else what the links name."""
    boot = root / "boot"
    saved = [
        line.partition("=")[2]
        for name in ("grub", "grub2")
        for line in pci.text(boot / name / "grubenv").splitlines()
        if line.startswith("saved_entry=")
    ]
    links = [
        os.readlink(path) for path in (root / "vmlinuz", boot / "vmlinuz") if path.is_symlink()
    ]
    return Kernels(
        {package.name: package.version for package in installed.values() if package.is_kernel},
        tuple(sorted(path.name for path in boot.glob("vmlinuz-*"))),
        (saved + links + [""])[0],
    )
