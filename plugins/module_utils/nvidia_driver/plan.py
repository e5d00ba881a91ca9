# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the installation of NVIDIA's driver on a host, and find everything that stands in its way.

:func:`examine` reads a host and changes nothing. All problems are found in one go, each with where it is and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..common.commands import Run
from ..common.findings import Finding
from ..gpu import pci
from . import apt as packages
from .apt import Apt, Package
from .host_state import Build, Report, builds, kernels, secure_boot
from .obstacles import (
    audit_problems,
    disk_problems,
    hardware_problems,
    problems_in,
    running_problems,
    transaction_problems,
)
from .systems import OWN, SYSTEMS, System, Wish, os_release_field, own_sources, system_of


def examine(wish: Wish, run: Run, root: Path, sysfs: Path, directory: Path) -> Report:
    """Read a host below *root* and *sysfs*; *directory* is an empty one for package lists."""
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
            Finding(
                "nvidia_driver_kernel_module",
                f"it is {wish.kernel_module}, and {what}",
                "Set it to auto, and give GPUs that cannot be driven together to different hosts",
            )
            for what in wrong
        ),
    )
    if system is None:
        supported = ", ".join(" ".join(identity) for identity in SYSTEMS)
        problem = Finding(
            "/etc/os-release",
            f"the host runs {name}",
            f"Supported are {supported}; take the host out of the inventory, or reinstall it",
        )
        return _with(
            report,
            [
                problem,
                *hardware_problems(report, wish, root),
            ],
        )
    report = replace(report, secure_boot=secure_boot(sysfs, root, system.certificate))
    codename = os_release_field(os_release, "VERSION_CODENAME")
    manager = Apt(run, directory, root, OWN, own_sources(wish, system, root, codename))
    found = manager.installed()
    report = replace(report, kernels=kernels(root, found), sources=manager.sources)
    problems = [
        *hardware_problems(report, wish, root),
        *audit_problems(manager),
    ]
    return _with(_plan(report, wish, system, run, root, manager, found), problems)


def _with(report: Report, problems: Sequence[Finding]) -> Report:
    return replace(report, problems=(*problems, *report.problems))


def _plan(
    report: Report,
    wish: Wish,
    system: System,
    run: Run,
    root: Path,
    manager: Apt,
    found: Mapping[str, Package],
) -> Report:
    """What has to be installed, and what keeps it from being installed."""
    driver = tuple(package for package in found.values() if package.is_driver)
    report = replace(report, installed=driver)
    kernel = system.kernel[report.kernel_module]
    branch = packages.upstream(wish.version).partition(".")[0]
    if "{branch}" in kernel and not branch:
        problem = Finding(
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
            preferences=packages.preferences(
                system.pinned, [found[one].version for one in versioned]
            ),
            build=built,
        )
        return _with(report, list(running_problems(report, wish, report.version)))
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
    manager: Apt,
    root: Path,
    found: Mapping[str, Package],
    names: _Names,
    wanted: str,
) -> Report:
    """The plan for a host on which something is missing: what the repositories have for it."""
    problems = list(disk_problems(wish.free, root))
    manager.prepare()
    problems += [
        Finding(
            "nvidia_driver_mirror",
            f"package lists could not be fetched: {what}",
            "Correct nvidia_driver_mirror and the host's own APT sources, or start the mirror",
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
        problems.append(_version_problem(wanted, names, offers, offered))
        version = ""
    for what in pci.branch_problems(report.gpus, version) if version else ():
        problems.append(
            Finding(
                "nvidia_driver_version",
                f"it is {wish.version or 'empty'}, which means {version}, and {what}",
                "Name another version, and the repository that has it in nvidia_driver_mirror or nvidia_driver_repository",
            )
        )
    if names.headers and names.headers not in found and not offers.get(names.headers):
        problems.append(
            Finding(
                "nvidia_driver_kernel_release",
                f"the kernel {wish.kernel_release} has no headers on this host, and no source has the package {names.headers}",
                "Start a kernel of the distribution (install its newest kernel, restart), or add a source that has these headers;"
                " without them the driver cannot be built",
            )
        )
        names = replace(names, headers="")
    report = replace(report, version=version, versions=tuple(offered))
    if not version or problems_in(problems, "nvidia_driver_kernel_release"):
        return _with(report, [*problems, *running_problems(report, wish, version)])
    return _simulated(report, wish, system, manager, found, names, full, offers, problems)


def _version_problem(
    wanted: str,
    names: _Names,
    offers: Mapping[str, Sequence[packages.Offer]],
    offered: Sequence[str],
) -> Finding:
    lacking = [name for name in names.versioned if not offers.get(name)]
    detail = f"it is {wanted or 'empty'}, and "
    if lacking:
        detail += f"no source has {', '.join(lacking)}"
    else:
        detail += f"no source has all of {', '.join(names.versioned)} in that version"
    return Finding(
        "nvidia_driver_version",
        detail,
        f"Available for the {names.kernel} of this host: {', '.join(offered) or 'none'}; name one of them, or another mirror"
        " in nvidia_driver_mirror",
    )


def _simulated(
    report: Report,
    wish: Wish,
    system: System,
    manager: Apt,
    found: Mapping[str, Package],
    names: _Names,
    full: str,
    offers: Mapping[str, Sequence[packages.Offer]],
    problems: Sequence[Finding],
) -> Report:
    """Try the installation, and refuse what it must not do."""
    versions = {one: packages.exact(offers[one], full) for one in names.versioned}
    pins = packages.preferences(system.pinned, list(versions.values()))
    manager.pin(pins)
    versions.update(_along(report, manager, versions, full))
    specs = [manager.spec(one, version) for one, version in versions.items()]
    more: list[Finding] = []
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
                Finding(
                    "nvidia_driver_fabric_manager",
                    f"the GPUs of this host are joined by NVSwitches, and no source has {' or '.join(candidates)} in version {report.version},"
                    " which must be the driver's",
                    f"Available: {listed}; name a repository that has it in nvidia_driver_repository, or a version of the driver"
                    " that it is available for",
                )
            )
    specs += [*names.others, *([names.headers] if names.headers else [])]
    transaction = manager.simulate(specs, report.unwanted)
    more += transaction_problems(transaction, report, manager, found)
    return _with(
        replace(report, wanted=tuple(specs), preferences=pins, transaction=transaction),
        [*problems, *running_problems(report, wish, report.version), *more],
    )


def _along(report: Report, manager: Apt, versions: Mapping[str, str], full: str) -> dict[str, str]:
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
