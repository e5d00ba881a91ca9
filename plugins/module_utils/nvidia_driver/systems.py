# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The supported distributions: their packages of NVIDIA's driver, and what a host is asked to have of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..gpu import pci
from . import apt as packages
from .apt import Source

# Name of the role's files and blocks in the configuration of the package manager; that of the lock says that the holds are ours.
OWN = "deepseek-nvidia-driver"


@dataclass(frozen=True)
class System:
    """A distribution's packages of the driver.

    ``{branch}`` stands for the driver's branch (535), ``{release}`` for the kernel's. ``others`` have versions of their own.
    ``pinned`` are the source packages that have the driver's version. ``certificate`` is the one that DKMS signs modules with.
    ``preferred`` is the kernel module where GPUs can have both. ``components`` are those of the distribution's repository that the packages are in.
    ``fabric_manager`` has the names of the package of the Fabric Manager, the one of newer drivers first.
    """

    kernel: Mapping[str, str]
    common: tuple[str, ...]
    others: tuple[str, ...]
    fabric_manager: tuple[str, ...]
    headers: str
    pinned: tuple[str, ...]
    certificate: str
    preferred: str
    components: tuple[str, ...] = ()


_DEBIAN = System(
    kernel={pci.OPEN: "nvidia-open-kernel-dkms", pci.PROPRIETARY: "nvidia-kernel-dkms"},
    common=(
        "nvidia-smi",
        "libnvidia-ml1",
        "libcuda1",
        "libnvidia-ptxjitcompiler1",
        "libnvidia-cfg1",
        "firmware-nvidia-gsp",
    ),
    others=("nvidia-persistenced",),
    fabric_manager=("nvidia-fabricmanager-{branch}",),
    headers="linux-headers-{release}",
    pinned=("nvidia-graphics-drivers", "nvidia-open-gpu-kernel-modules", "fabricmanager-*"),
    certificate="/var/lib/dkms/mok.pub",
    # The open one of Debian 13 (550.163.01-2) does not build for that release's kernels from 6.12.118 on.
    preferred=pci.PROPRIETARY,
    components=("contrib", "non-free", "non-free-firmware"),
)
_UBUNTU = System(
    kernel={pci.OPEN: "nvidia-dkms-{branch}-open", pci.PROPRIETARY: "nvidia-dkms-{branch}"},
    common=("nvidia-utils-{branch}", "libnvidia-compute-{branch}", "nvidia-compute-utils-{branch}"),
    others=(),
    fabric_manager=("nvidia-fabricmanager-{branch}",),
    headers="linux-headers-{release}",
    pinned=("nvidia-graphics-drivers-*", "fabricmanager-*"),
    certificate="/var/lib/shim-signed/mok/MOK.der",
    # NVIDIA recommends it from Turing on.
    preferred=pci.OPEN,
)
# By ID and VERSION_ID of os-release(5).
SYSTEMS = {
    ("debian", "12"): _DEBIAN,
    ("debian", "13"): _DEBIAN,
    ("ubuntu", "22.04"): _UBUNTU,
    ("ubuntu", "24.04"): _UBUNTU,
}


@dataclass(frozen=True)
class Wish:
    """What a host should have.

    ``version`` may be empty: the newest at first, what is installed from then on. ``free`` has MiB by directory. ``replace`` says
    that another version may take the place of a module that is loaded, ``restart`` that the host is or may be restarted.
    ``mirrors`` are Debian's, of releases and of security updates, or empty for those that the host has; ``repository`` is one
    beside them.
    """

    kernel_release: str
    kernel_module: str = "auto"
    version: str = ""
    fabric_manager: str = "auto"
    fabric_manager_package: str = ""
    packages: tuple[str, ...] = ()
    mirrors: tuple[str, str] = ("", "")
    repository: Source | None = None
    free: Mapping[str, int] = field(default_factory=dict)
    replace: bool = False
    restart: bool = False


def system_of(os_release: str) -> tuple[str, System | None]:
    """Name of the system that os-release(5) describes, and its packages, None if it is not supported."""
    identity = os_release_field(os_release, "ID"), os_release_field(os_release, "VERSION_ID")
    name = f"{identity[0]} {identity[1]}".strip() or "an unknown system"
    return name, SYSTEMS.get(identity)


def os_release_field(os_release: str, name: str) -> str:
    found = [line for line in os_release.splitlines() if line.startswith(f"{name}=")]
    return found[0].partition("=")[2].strip("\"'") if found else ""


def own_sources(wish: Wish, system: System, root: Path, codename: str) -> str:
    """APT sources that the driver's packages need beside those that the host has, in deb822 form."""
    apt = root / "etc" / "apt"
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    existing = [
        source
        for path in files
        if path.stem != OWN and path.suffix in (".list", ".sources")
        for source in packages.parse_sources(path.name, pci.text(path))
    ]
    more = packages.more_of(existing, codename, wish.mirrors, system.components)
    return packages.render_sources([*more, *([wish.repository] if wish.repository else [])])
