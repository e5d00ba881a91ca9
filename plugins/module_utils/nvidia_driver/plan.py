# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host has of NVIDIA's driver, what it should have, and everything that stands in the way.

:func:`examine` reads a host and changes nothing. All problems are found in one go, each with where it is and what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..gpu import pci
from . import apt as packages
from .apt import Apt, Manager, Package, Run, Source, Transaction
from .dnf import Dnf

# Name of the role's files and blocks in the configuration of the package manager; that of the lock says that the holds are ours.
OWN = "deepseek-nvidia-driver"

# UEFI specification 2.10, sections 3.3 and 32.4: GUIDs of the global variables and of the signature databases; shim's own.
_SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_TRUSTED = (
    "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f",
    "MokListRT*-605dab50-e046-4300-abb6-3dd810dd8b23",
)
_EFI_ATTRIBUTES = 4  # bytes before a variable's value in efivarfs

# What NVIDIA's own installer (.run) leaves behind, and no package has.
_RUNFILE = ("usr/bin/nvidia-uninstall", "usr/bin/nvidia-installer")

_DKMS = re.compile(r"^(nvidia[\w-]*)[/,]\s*([^,:\s]+)(?:,\s*([^,]+),\s*([^:,]+))?:\s*(\w+)")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the variable or file, what is wrong with it, and what to do."""

    where: str
    what: str
    remedy: str


@dataclass(frozen=True)
class System:
    """A distribution's packages of the driver.

    ``{branch}`` stands for the driver's branch (535), ``{release}`` for the kernel's. ``others`` have versions of their own.
    ``pinned`` are the source packages that have the driver's version. ``certificate`` is the one that DKMS signs modules with.
    ``preferred`` is the kernel module where GPUs can have both. ``components`` are those of the distribution's repository that the packages are in.
    ``fabric_manager`` has the names of the package of the Fabric Manager, the one of newer drivers first. ``dnf`` says that they are RPMs.
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
    dnf: bool = False


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
# The names of NVIDIA's repository for RHEL 9. Without their streams the versions are what tells its packages apart: a stream moves
# to a newer driver of its branch, and it is a state of the host that installed packages have to agree with.
_RHEL = System(
    kernel={pci.OPEN: "kmod-nvidia-open-dkms", pci.PROPRIETARY: "kmod-nvidia-latest-dkms"},
    common=(
        "nvidia-driver-cuda",
        "nvidia-driver-cuda-libs",
        "nvidia-persistenced",
        "nvidia-modprobe",
    ),
    # What reads the lock. DKMS comes as a dependency, from EPEL or from NVIDIA.
    others=("python3-dnf-plugin-versionlock",),
    fabric_manager=("nvidia-fabricmanager", "nvidia-fabric-manager"),
    # Has the headers and stays with its kernel, so that a new kernel brings new headers.
    headers="kernel-devel-matched-{release}",
    pinned=(),
    certificate="/var/lib/dkms/mok.pub",
    # NVIDIA recommends it from Turing on.
    preferred=pci.OPEN,
    dnf=True,
)
# ID of os-release(5) of RHEL and of its rebuilds.
_RHEL_IDS = ("rhel", "rocky", "almalinux", "ol")
# By ID and VERSION_ID of os-release(5), of RHEL without the minor one.
SYSTEMS = {
    ("debian", "12"): _DEBIAN,
    ("debian", "13"): _DEBIAN,
    ("ubuntu", "22.04"): _UBUNTU,
    ("ubuntu", "24.04"): _UBUNTU,
    **{(name, "9"): _RHEL for name in _RHEL_IDS},
}


@dataclass(frozen=True)
class Wish:
    """What a host should have.

    ``version`` may be empty: the newest at first, what is installed from then on. ``free`` has MiB by folder. ``replace`` says
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
    problems: tuple[Problem, ...] = ()


def system_of(os_release: str) -> tuple[str, System | None]:
    """Name of the system that os-release(5) describes, and its packages, None if it is not supported."""
    identity = _field(os_release, "ID"), _field(os_release, "VERSION_ID")
    name = f"{identity[0]} {identity[1]}".strip() or "an unknown system"
    if identity[0] in _RHEL_IDS:
        identity = identity[0], identity[1].partition(".")[0]
    return name, SYSTEMS.get(identity)


def _field(os_release: str, name: str) -> str:
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
    folder = root / "lib" / "modules" / release
    for part in ("updates", "extra", "weak-updates"):
        for path in sorted((folder / part).rglob("nvidia*.ko*")):
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


def disk_problems(free: Mapping[str, int], root: Path, clean: str) -> Iterator[Problem]:
    """File systems with less free space than all folders on them need together, *free* in MiB by folder."""
    needs: dict[int, tuple[int, int, list[str]]] = {}
    for name, mebibytes in free.items():
        folder = _existing(root / name.lstrip("/"))
        state, device = os.statvfs(folder), folder.stat().st_dev
        _unused, need, names = needs.get(device, (0, 0, []))
        needs[device] = (state.f_bavail * state.f_frsize >> 20, need + mebibytes, [*names, name])
    for there, need, names in needs.values():
        if there < need:
            yield Problem(
                "nvidia_driver_free_mib",
                f"the file system of {', '.join(names)} has {there} MiB free, and {need} MiB are needed",
                f"Free some space: {clean}, and remove kernels that are not used any more",
            )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def examine(wish: Wish, run: Run, root: Path, sysfs: Path, folder: Path) -> Report:
    """Read a host below *root* and *sysfs*; *folder* is an empty one for package lists."""
    os_release = pci.text(root / "etc" / "os-release")
    name, system = system_of(os_release)
    devices = pci.gpus(sysfs)
    preferred = system.preferred if system else pci.OPEN
    module, wrong = pci.module_for(devices, wish.kernel_module, preferred)
    report = Report(
        gpus=tuple(devices),
        nvswitches=tuple(pci.nvswitches(sysfs)),
        kernel_module=module,
        loaded=pci.text(sysfs / "module" / "nvidia" / "version"),
        nouveau=(sysfs / "module" / "nouveau").is_dir()
        or any(device.driver == "nouveau" for device in devices),
        problems=tuple(
            Problem(
                "nvidia_driver_kernel_module",
                f"it is {wish.kernel_module}, and {what}",
                "Set it to auto, and give GPUs that cannot be driven together to different hosts",
            )
            for what in wrong
        ),
    )
    if system is None:
        supported = ", ".join(" ".join(identity) for identity in SYSTEMS)
        problem = Problem(
            "/etc/os-release",
            f"the host runs {name}",
            f"Supported are {supported}; take the host out of the inventory, or reinstall it",
        )
        return _with(
            report,
            [
                problem,
                *_hardware_problems(report, wish, root, "the program that makes the initramfs"),
            ],
        )
    report = replace(report, secure_boot=secure_boot(sysfs, root, system.certificate))
    manager = _manager(wish, system, run, root, folder, _field(os_release, "VERSION_CODENAME"))
    found = manager.installed()
    report = replace(report, kernels=kernels(root, found), sources=manager.sources)
    problems = [
        *_hardware_problems(report, wish, root, manager.words.initramfs),
        *_audit_problems(manager),
        *(_keyring_problems(wish, root) if system.dnf else ()),
    ]
    return _with(_plan(report, wish, system, run, root, manager, found), problems)


def _manager(
    wish: Wish, system: System, run: Run, root: Path, folder: Path, codename: str
) -> Manager:
    if system.dnf:
        return Dnf(run, folder, root, OWN, wish.repository)
    return Apt(run, folder, root, OWN, own_sources(wish, system, root, codename))


def _with(report: Report, problems: Sequence[Problem]) -> Report:
    return replace(report, problems=(*problems, *report.problems))


def _hardware_problems(report: Report, wish: Wish, root: Path, initramfs: str) -> Iterator[Problem]:
    if not report.gpus:
        yield Problem(
            "nvidia_driver_sysfs",
            "the kernel sees no NVIDIA GPU",
            "Look at lspci -d 10de: and at the GPU's seat and power; or take the host out of those that get a driver",
        )
    boot = report.secure_boot
    if boot.enabled and not boot.enrolled:
        yield Problem(
            boot.certificate,
            "Secure Boot is on, and neither firmware nor shim trusts the key that DKMS signs modules with,"
            " so the kernel would refuse the driver",
            "Make the key if it is missing (dkms generate_mok; on Ubuntu update-secureboot-policy --new-key), run"
            f" mokutil --import {boot.certificate}, restart the host and choose 'Enroll MOK' on its console;"
            " or switch Secure Boot off in the firmware",
        )
    left = [f"/{name}" for name in _RUNFILE if (root / name).exists()]
    if left:
        yield Problem(
            left[0],
            "a driver was installed with NVIDIA's own installer (.run), whose files packages would overwrite only in part",
            "Remove it with nvidia-uninstall, and restart the host",
        )
    if report.nouveau and not wish.restart:
        yield Problem(
            "nvidia_driver_reboot",
            "it is never, and the nouveau driver has the GPU, which lets go of it only when the host starts without it",
            f"Set it to if_needed; or block nouveau in /etc/modprobe.d, run {initramfs} and restart the host yourself",
        )


def _audit_problems(manager: Manager) -> Iterator[Problem]:
    broken = manager.audit()
    if broken:
        yield Problem(
            manager.words.audit,
            f"packages are not installed properly ({'; '.join(broken)})",
            manager.words.repair,
        )


def _keyring_problems(wish: Wish, root: Path) -> Iterator[Problem]:
    """Without a key that is there, dnf could not verify a package, and would say so in the middle of the installation."""
    keyring = wish.repository.signed_by if wish.repository else ""
    if wish.repository and not (keyring and (root / keyring.lstrip("/")).is_file()):
        yield Problem(
            "nvidia_driver_repository_keyring",
            f"it is {keyring or 'empty'}, and the host has no such file, so that packages of {wish.repository.uri} cannot be verified",
            "Copy the key that the packages are signed with (NVIDIA's is D42D0685.pub in its repository) to the host, and name it here",
        )


def _plan(
    report: Report,
    wish: Wish,
    system: System,
    run: Run,
    root: Path,
    manager: Manager,
    found: Mapping[str, Package],
) -> Report:
    """What has to be installed, and what keeps it from being installed."""
    driver = tuple(package for package in found.values() if package.is_driver)
    report = replace(report, installed=driver)
    kernel = system.kernel[report.kernel_module]
    branch = packages.upstream(wish.version).partition(".")[0]
    if "{branch}" in kernel and not branch:
        problem = Problem(
            "nvidia_driver_version",
            "it is empty, and this system's packages have the driver's branch in their names",
            "Name a version, such as 580.95.05",
        )
        return _with(report, [problem])
    fill = {"branch": branch, "release": wish.kernel_release}
    if wish.kernel_module == "auto":
        report = replace(report, kernel_module=_kept(report, system, fill, found))
    kernel = system.kernel[report.kernel_module].format(**fill)
    versioned = [kernel, *(wish.packages or tuple(one.format(**fill) for one in system.common))]
    others = [one.format(**fill) for one in system.others]
    rival = {other.format(**fill) for other in system.kernel.values()} - {kernel}
    unwanted = tuple(sorted(rival & found.keys()))
    have = packages.upstream(found[kernel].version) if kernel in found else ""
    wanted = wish.version or have
    fabric = _fabric_manager(report, wish, system)
    known = builds(run, root, wish.kernel_release)
    report = replace(report, unwanted=unwanted, builds=tuple(known))

    complete = (
        bool(wanted)
        and not unwanted
        and all(
            name in found and packages.matches(found[name].version, wanted) for name in versioned
        )
        and all(name in found for name in others)
    )
    if fabric:
        branch = packages.upstream(wanted).partition(".")[0]
        there = [one for one in (name.format(branch=branch) for name in fabric) if one in found]
        complete = complete and any(packages.matches(found[one].version, wanted) for one in there)
    built = _built(known, have, wish.kernel_release)
    headers_there = (root / "lib" / "modules" / wish.kernel_release / "build" / "Makefile").exists()
    if complete and (headers_there or built):
        names = [*versioned, *others, *(there[:1] if fabric else [])]
        report = replace(
            report,
            version=packages.upstream(wanted),
            versions=(have,),
            wanted=tuple(manager.spec(one, found[one].version) for one in names),
            preferences=manager.lock(
                system.pinned,
                {one: found[one].version for one in versioned},
                {one.name: one.version for one in driver},
            ),
            build=built,
        )
        return _with(report, list(_running_problems(report, wish, report.version)))
    return _repository_plan(
        replace(report, needed=True, build=built),
        wish, system, manager, root, found,
        _Names(kernel, tuple(versioned), tuple(others), fabric, "" if headers_there else system.headers.format(**fill)),
        wanted,
    )  # fmt: skip


@dataclass(frozen=True)
class _Names:
    """Packages to install: those with the driver's version, others, and, where they are missing, the kernel's headers."""

    kernel: str
    versioned: tuple[str, ...]
    others: tuple[str, ...]
    fabric: tuple[str, ...]
    headers: str


def _kept(
    report: Report, system: System, fill: Mapping[str, str], found: Mapping[str, Package]
) -> str:
    """The kernel module that a host without a wish gets: the one that it has, if its GPUs can have it."""
    for module, package in system.kernel.items():
        possible = all(module in pci.SUPPORT[gpu.architecture].modules for gpu in report.gpus)
        if possible and package.format(**fill) in found:
            return module
    return report.kernel_module


def _fabric_manager(report: Report, wish: Wish, system: System) -> tuple[str, ...]:
    if wish.fabric_manager == "absent" or (wish.fabric_manager == "auto" and not report.nvswitches):
        return ()
    return (wish.fabric_manager_package,) if wish.fabric_manager_package else system.fabric_manager


def _built(known: Sequence[Build], version: str, release: str) -> Build | None:
    """The module of this version for this kernel, if it is installed and its file is there."""
    mine = [build for build in known if build.version == version]
    for build in mine:
        if build.kernel == release and build.state == "installed" and build.file:
            return build
    return None


def _repository_plan(
    report: Report,
    wish: Wish,
    system: System,
    manager: Manager,
    root: Path,
    found: Mapping[str, Package],
    names: _Names,
    wanted: str,
) -> Report:
    """The plan for a host on which something is missing: what the repositories have for it."""
    problems = list(disk_problems(wish.free, root, manager.words.clean))
    manager.prepare()
    problems += [
        Problem(
            manager.words.lists,
            f"package lists could not be fetched: {what}",
            manager.words.fetch,
        )
        for what in manager.problems
    ]
    asked = [*names.versioned, *names.others, *([names.headers] if names.headers else [])]
    offers = manager.policy(asked)
    offered = packages.available(offers, names.versioned)
    newest = packages.available(offers, names.versioned, ordinary=True)
    version = packages.upstream(wanted) or (newest[0] if newest else "")
    full = wanted or version
    if version not in offered or not all(
        packages.exact(offers[one], full) for one in names.versioned
    ):
        problems.append(_version_problem(wanted, names, offers, offered, manager.words.lists))
        version = ""
    for what in pci.branch_problems(report.gpus, version) if version else ():
        problems.append(
            Problem(
                "nvidia_driver_version",
                f"it is {wish.version or 'empty'}, which means {version}, and {what}",
                "Name another version, and the repository that has it in nvidia_driver_mirror or nvidia_driver_repository",
            )
        )
    if names.headers and names.headers not in found and not offers.get(names.headers):
        problems.append(
            Problem(
                "nvidia_driver_kernel_release",
                f"the kernel {wish.kernel_release} has no headers on this host, and no source has the package {names.headers}",
                "Start a kernel of the distribution (install its newest kernel, restart), or add a source that has these headers;"
                " without them the driver cannot be built",
            )
        )
        names = replace(names, headers="")
    report = replace(report, version=version, versions=tuple(offered))
    if not version or problems_in(problems, "nvidia_driver_kernel_release"):
        return _with(report, [*problems, *_running_problems(report, wish, version)])
    return _simulated(report, wish, system, manager, found, names, full, offers, problems)


def problems_in(problems: Sequence[Problem], where: str) -> list[Problem]:
    """Problems of one variable or file."""
    return [problem for problem in problems if problem.where == where]


def _version_problem(
    wanted: str,
    names: _Names,
    offers: Mapping[str, Sequence[packages.Offer]],
    offered: Sequence[str],
    lists: str,
) -> Problem:
    lacking = [name for name in names.versioned if not offers.get(name)]
    detail = f"it is {wanted or 'empty'}, and "
    if lacking:
        detail += f"no source has {', '.join(lacking)}"
    else:
        detail += f"no source has all of {', '.join(names.versioned)} in that version"
    return Problem(
        "nvidia_driver_version",
        detail,
        f"Available for the {names.kernel} of this host: {', '.join(offered) or 'none'}; name one of them, or another mirror"
        f" in {lists}",
    )


def _running_problems(report: Report, wish: Wish, version: str) -> Iterator[Problem]:
    if report.loaded and version and report.loaded != version and not wish.replace:
        yield Problem(
            "nvidia_driver_version",
            f"the kernel module {report.loaded} is loaded; with packages of {version} beside it, nothing on this host could"
            " use a GPU until it is unloaded or the host restarts",
            "Run playbooks/driver_upgrade.yml, which drains one host after another",
        )


def _simulated(
    report: Report,
    wish: Wish,
    system: System,
    manager: Manager,
    found: Mapping[str, Package],
    names: _Names,
    full: str,
    offers: Mapping[str, Sequence[packages.Offer]],
    problems: Sequence[Problem],
) -> Report:
    """Try the installation, and refuse what it must not do."""
    versions = {one: packages.exact(offers[one], full) for one in names.versioned}
    pins = manager.lock(system.pinned, versions, {})
    manager.pin(pins)
    chosen = dict(versions)
    versions.update(_along(report, manager, versions, full))
    specs = [manager.spec(one, version) for one, version in versions.items()]
    more: list[Problem] = []
    if names.fabric:
        candidates = [one.format(branch=report.version.partition(".")[0]) for one in names.fabric]
        known = manager.policy(candidates)
        exact = {
            one: packages.exact(known.get(one, ()), full)
            or packages.exact(known.get(one, ()), report.version)
            for one in candidates
        }
        specs += [manager.spec(one, version) for one, version in exact.items() if version][:1]
        if not any(exact.values()):
            listed = ", ".join(offer.version for one in known.values() for offer in one) or "none"
            more.append(
                Problem(
                    "nvidia_driver_fabric_manager",
                    f"the GPUs of this host are joined by NVSwitches, and no source has {' or '.join(candidates)} in version {report.version},"
                    " which must be the driver's",
                    f"Available: {listed}; name a repository that has it in nvidia_driver_repository, or a version of the driver"
                    " that it is available for",
                )
            )
    specs += [*names.others, *([names.headers] if names.headers else [])]
    transaction = manager.simulate(specs, report.unwanted)
    more += _transaction_problems(transaction, report, manager, found)
    afterwards = {one.name: one.version for one in report.installed}
    afterwards.update(
        {
            change.name: change.new
            for change in transaction.changes
            if change.name in afterwards or Package(change.name, "", change.name, False).is_driver
        }
    )
    kept = {name: version for name, version in afterwards.items() if version}
    pins = manager.lock(system.pinned, chosen, kept)
    return _with(
        replace(report, wanted=tuple(specs), preferences=pins, transaction=transaction),
        [*problems, *_running_problems(report, wish, report.version), *more],
    )


def _along(
    report: Report, manager: Manager, versions: Mapping[str, str], full: str
) -> dict[str, str]:
    """Versions of installed packages that have to move along: one that is held stays where it is, unless it is named."""
    behind = [
        package.name
        for package in report.installed
        if package.name not in (*versions, *report.unwanted)
        and package.version in {one.version for one in report.installed if one.name in versions}
        and not packages.matches(package.version, full)
    ]
    offers = manager.policy(behind) if behind else {}
    found = {name: packages.exact(offers.get(name, ()), full) for name in behind}
    return {name: version for name, version in found.items() if version}


def _transaction_problems(
    transaction: Transaction, report: Report, manager: Manager, found: Mapping[str, Package]
) -> Iterator[Problem]:
    if transaction.error:
        yield Problem(
            manager.words.simulation,
            f"the driver's packages cannot be installed together: {transaction.error}",
            manager.words.conflict,
        )
    moved = [change.name for change in transaction.changes if packages.is_kernel(change.name)]
    if moved:
        yield Problem(
            manager.words.simulation,
            f"installing the driver would change the kernel ({', '.join(moved)})",
            "Bring the kernel up to date first, as you always do, restart the host, and run this again",
        )
    gone = [
        change.name
        for change in transaction.changes
        if not change.new and not (report.unwanted and found[change.name].is_driver)
    ]
    if gone:
        yield Problem(
            manager.words.simulation,
            f"installing the driver would remove {', '.join(gone)}",
            "Remove them yourself if nobody needs them, or name a version that gets along with them",
        )
    held = manager.others_hold(transaction.changes, found)
    if held:
        yield Problem(
            manager.words.holds,
            f"packages of the driver are held, and not by this role ({', '.join(held)})",
            f"Ask who holds them and why; then {manager.words.release.format(names=' '.join(held))}",
        )
