# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's driver: what a host has and needs, from what its tools printed and a recorded bus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.common.findings import Finding
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu import pci
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver import apt as packages
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.host_state import (
    Report,
    parse_dkms,
    secure_boot,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.plan import examine
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.systems import OWN, Wish

RECORDED = Path(__file__).resolve().parents[4] / "fixtures" / "nvidia_driver"
KERNEL = "6.1.0-56-amd64"
OLD, NEW = "535.261.03", "535.309.01"
SOURCES = "deb http://deb.debian.org/debian bookworm main\n"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


class Machine:
    """A Debian 12 host below a folder, with an H100, and the programs that it has."""

    def __init__(self, folder: Path) -> None:
        self.root, self.sysfs, self.folder = folder / "root", folder / "sys", folder / "apt"
        self.folder.mkdir()
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
        folder = self.sysfs / "bus" / "pci" / "devices" / address
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in {"vendor": "0x10de", "device": device, "class": kind}.items():
            (folder / name).write_text(f"{text}\n")

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
        for left in self.folder.iterdir():
            packages.shutil.rmtree(left)
        return examine(
            replace(asked, **wish),  # type: ignore[arg-type]
            self.run,
            self.root,
            self.sysfs,
            self.folder,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def only(report: Report) -> Finding:
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


# GPUs


@pytest.mark.parametrize(
    ("device", "architecture"),
    [
        (0x102D, "kepler or older"),  # K80
        (0x17FD, "maxwell"),  # M40
        (0x15F8, "pascal"),  # P100
        (0x1DB6, "volta"),  # V100
        (0x1EB8, "turing"),  # T4
        (0x20B5, "ampere"),  # A100 80 GB
        (0x2182, "turing"),  # GTX 1660 Ti, above the A100
        (0x2235, "ampere"),  # A40
        (0x2330, "hopper"),  # H100
        (0x25B6, "ampere"),  # A16
        (0x26B9, "ada"),  # L40S
        (0x2901, "blackwell or newer"),  # B200
        (0x2BB5, "blackwell or newer"),  # RTX PRO 6000
    ],
)
def test_architecture_by_device_identifier(device: int, architecture: str) -> None:
    assert pci.architecture_of(device) == architecture


def test_devices_of_others_and_of_virtual_machines_are_none_of_ours(machine: Machine) -> None:
    machine.device("0000:00:07.0", "0x2330")
    machine.device("0000:00:08.0", "0x22a3", "0x068000")
    bus = machine.sysfs / "bus" / "pci"
    (bus / "drivers" / "vfio-pci").mkdir(parents=True)
    (bus / "devices" / "0000:00:07.0" / "driver").symlink_to(bus / "drivers" / "vfio-pci")
    assert [gpu.address for gpu in pci.gpus(machine.sysfs)] == ["0000:00:06.0"]
    assert [switch.device for switch in pci.nvswitches(machine.sysfs)] == [0x22A3]


@pytest.mark.parametrize(
    ("devices", "wish", "module", "wrong"),
    [
        ([0x2330], "auto", "open", 0),
        ([0x1EB8, 0x2330], "auto", "open", 0),
        ([0x1DB6], "auto", "proprietary", 0),
        ([0x1DB6, 0x2330], "auto", "proprietary", 0),
        ([0x1DB6], "open", "open", 1),
        ([0x2901], "auto", "open", 0),
        ([0x2901, 0x2901], "proprietary", "proprietary", 2),
        ([0x1DB6, 0x2901], "auto", "open", 1),
        ([], "auto", "open", 0),
    ],
)
def test_kernel_module_by_gpu(devices: list[int], wish: str, module: str, wrong: int) -> None:
    gpus = [pci.Device("a", one, pci.architecture_of(one), "") for one in devices]
    chosen, problems = pci.module_for(gpus, wish)
    assert (chosen, len(problems)) == (module, wrong)


@pytest.mark.parametrize(
    ("devices", "module"),
    [([0x2330], "proprietary"), ([0x2901], "open"), ([0x1DB6], "proprietary")],
)
def test_kernel_module_that_a_system_prefers(devices: list[int], module: str) -> None:
    gpus = [pci.Device("a", one, pci.architecture_of(one), "") for one in devices]
    assert pci.module_for(gpus, "auto", pci.PROPRIETARY) == (module, [])


def test_driver_that_is_too_old_or_too_new_for_a_gpu() -> None:
    def said(device: int, version: str) -> list[str]:
        gpu = pci.Device("a", device, pci.architecture_of(device), "")
        return pci.branch_problems([gpu], version)

    assert said(0x2901, "550.163.01") == [
        "GPUs of blackwell or newer need a driver of branch 570 or later"
    ]
    assert said(0x1DB6, "590.48.01") == ["the last branch that drives GPUs of volta is 580"]
    assert said(0x2330, OLD) == []


# Secure Boot


def test_secure_boot_from_the_bytes_of_its_variable(machine: Machine) -> None:
    efi = machine.sysfs / "firmware" / "efi" / "efivars"
    certificate = "/var/lib/dkms/mok.pub"

    def state() -> tuple[bool, bool]:
        found = secure_boot(machine.sysfs, machine.root, certificate)
        return found.enabled, found.enrolled

    assert state() == (False, False)
    efi.mkdir(parents=True)
    variable = efi / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.write_bytes(b"\x06\0\0\0\0")
    assert state() == (False, False)
    variable.write_bytes(b"\x06\0\0\0\1")
    assert state() == (True, False)
    machine.write("var/lib/dkms/mok.pub", "0\x82 a certificate")
    key = (machine.root / "var/lib/dkms/mok.pub").read_bytes()
    forbidden = efi / "dbx-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
    forbidden.write_bytes(b"\x06\0\0\0" + key)
    assert state() == (True, False)
    shim = efi / "MokListRT1-605dab50-e046-4300-abb6-3dd810dd8b23"
    shim.write_bytes(b"\x06\0\0\0header" + key)
    assert state() == (True, True)


# What tools print


def test_dkms_status_of_several_versions_of_dkms() -> None:
    found = parse_dkms(
        "nvidia-current/535.261.03: added\n"
        "nvidia-current/535.261.03, 6.1.0-56-amd64, x86_64: installed\n"
        "nvidia-current, 470.1, 5.10.0-1, x86_64: built\n"
        "nvidia-open/580.95.05, 5.14.0-1.el9, x86_64: installed (WARNING! Diff between built and "
        "installed module!)\n"
        "zfs/2.1.11, 6.1.0-56-amd64, x86_64: installed\n"
    )
    assert [(one.name, one.version, one.kernel, one.state) for one in found] == [
        ("nvidia-current", "535.261.03", "", "added"),
        ("nvidia-current", "535.261.03", "6.1.0-56-amd64", "installed"),
        ("nvidia-current", "470.1", "5.10.0-1", "built"),
        ("nvidia-open", "580.95.05", "5.14.0-1.el9", "installed"),
    ]


def test_policy_gives_what_repositories_have() -> None:
    offers = packages.parse_policy(recorded("bookworm-policy.txt"))
    assert offers["nvidia-smi"] == (
        packages.Offer("535.309.01-0+deb12u1", 500),
        packages.Offer("535.261.03-1", 500),
        packages.Offer("535.216.03-2~bpo12+1", 100),
    )
    names = ["nvidia-kernel-dkms", "nvidia-smi"]
    assert packages.available(offers, names) == [NEW, OLD, "535.216.03"]
    assert packages.available(offers, names, ordinary=True) == [NEW, OLD]
    assert packages.available(offers, ["nvidia-open-kernel-dkms", "nvidia-smi"]) == [OLD]
    assert packages.available(offers, ["nvidia-smi", "none"]) == []


def test_a_version_that_no_repository_has_any_more_is_no_offer() -> None:
    text = "a:\n  Installed: 1\n  Version table:\n *** 1 100\n        100 /var/lib/dpkg/status\n"
    assert packages.parse_policy(text) == {"a": ()}


def test_the_exact_version_is_the_newest_of_the_highest_priority() -> None:
    offers = [
        packages.Offer("1.2-4~bpo", 100),
        packages.Offer("1.2-3", 500),
        packages.Offer("1.2-2", 500),
    ]
    assert packages.exact(offers, "1.2") == "1.2-3"
    assert packages.exact(offers, "1.2-4~bpo") == "1.2-4~bpo"
    assert packages.exact(offers, "1.3") == ""


def test_transaction_of_a_simulation() -> None:
    assert packages.parse_transaction(recorded("bookworm-simulate.txt")) == (
        packages.Change("nvidia-open-kernel-dkms", "535.261.03-1", ""),
        packages.Change("libnvidia-ml1", "535.261.03-1", "535.309.01-0+deb12u1"),
        packages.Change("nvidia-smi", "535.261.03-1", "535.309.01-0+deb12u1"),
        packages.Change("linux-headers-6.1.0-56-amd64", "", "6.1.192-2"),
    )


def test_complaint_names_the_dependencies() -> None:
    said = packages.complaint(recorded("trixie-simulate-refused.txt"), "")
    assert said.startswith("Unable to correct problems, you have held broken packages.")
    assert "Depends: nvidia-alternative (= 550.163.01-4~bpo13+1)" in said


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("linux-image-6.1.0-56-amd64", True),
        ("linux-image-amd64", True),
        ("linux-modules-extra-6.8.0-1-generic", True),
        ("linux-headers-6.1.0-56-amd64", False),
        ("linux-base", False),
    ],
)
def test_what_a_kernel_is(name: str, kernel: bool) -> None:
    assert packages.is_kernel(name) is kernel


def test_what_belongs_to_the_driver() -> None:
    found = packages.parse_installed(
        recorded("bookworm-dpkg-query.txt")
        + "nvidia-container-toolkit\t1.17-1\tnvidia-container-toolkit\tinstall\tinstalled\n"
        + "libnvidia-ml1\t1\tnvidia-graphics-drivers\tdeinstall\tconfig-files\n"
    )
    driver_names = {package.name for package in found.values() if package.is_driver}
    assert {"nvidia-smi", "libcuda1", "nvidia-persistenced", "firmware-nvidia-gsp"} <= driver_names
    assert driver_names & {"dkms", "bash", "glx-diversions", "nvidia-container-toolkit"} == set()


# Sources


def test_sources_in_both_forms() -> None:
    one_line = packages.parse_sources(
        "sources.list",
        "# deb http://a x main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://b/ x main contrib # c\n"
        "deb-src http://b x main\n",
    )
    assert one_line == [packages.Source("http://b/", ("x",), ("main", "contrib"), "/k.gpg")]
    deb822 = packages.parse_sources(
        "debian.sources",
        "Types: deb deb-src\nURIs: http://a http://b\nSuites: x x-updates\nComponents: main\n"
        "Signed-By:\n -----BEGIN\n .\n -----END\n\n"
        "Types: deb\nURIs: http://c\nSuites: x\nEnabled: no\n",
    )
    assert [source.uri for source in deb822] == ["http://a", "http://b"]
    assert deb822[0].suites == ("x", "x-updates")
    assert deb822[0].signed_by == "-----BEGIN\n .\n -----END"


def test_more_components_come_from_where_main_comes_from() -> None:
    existing = [
        packages.Source("http://m/debian", ("x", "x-updates"), ("main", "contrib"), "/k.gpg"),
        packages.Source("http://m/security", ("x-security",), ("main",)),
        packages.Source("http://other/", ("x",), ("their",)),
    ]
    more = packages.more_of(existing, "x", ("", ""), ("contrib", "non-free"))
    assert more == [
        packages.Source("http://m/debian", ("x",), ("non-free",), "/k.gpg"),
        packages.Source("http://m/debian", ("x-updates",), ("non-free",), "/k.gpg"),
        packages.Source("http://m/security", ("x-security",), ("contrib", "non-free")),
    ]
    named = packages.more_of(existing, "x", ("http://m/debian/", ""), ("non-free",))
    assert named[0] == packages.Source("http://m/debian/", ("x",), ("non-free",), "/k.gpg")
    assert packages.render_sources(named[:1]) == (
        "Types: deb\nURIs: http://m/debian/\nSuites: x\nComponents: non-free\nSigned-By: /k.gpg\n"
    )


# The host


def test_a_host_that_has_everything_asks_no_repository(machine: Machine) -> None:
    machine.build()
    report = machine.examine()
    assert (report.needed, report.version, report.problems) == (False, OLD, ())
    assert report.build is not None
    assert report.build.file_version == OLD
    assert report.build.file.endswith("nvidia-current.ko")
    assert "Pin: version 535.261.03-1\n" in report.preferences
    assert report.kernels.default == f"boot/vmlinuz-{KERNEL}"
    assert not [command for command in machine.commands if command[0].startswith("apt")]


def test_a_driver_that_is_there_is_kept_although_there_is_a_newer_one(machine: Machine) -> None:
    machine.headers()
    report = machine.examine()
    assert (report.needed, report.version, report.build) == (False, OLD, None)


def test_the_first_driver_is_the_newest(machine: Machine) -> None:
    machine.empty()
    report = machine.examine()
    assert (report.needed, report.version, report.problems) == (True, NEW, ())
    assert report.versions == (NEW, OLD, "535.216.03")
    assert "nvidia-kernel-dkms=535.309.01-0+deb12u1" in report.wanted
    assert report.wanted[-2:] == ("nvidia-persistenced", f"linux-headers-{KERNEL}")
    assert report.preferences == (
        "Package: src:nvidia-graphics-drivers src:nvidia-open-gpu-kernel-modules "
        "src:fabricmanager-*\n"
        "Pin: version 535.309.01-0+deb12u1\nPin-Priority: 1001\n"
    )
    assert "Components: contrib non-free non-free-firmware\n" in report.sources


def test_an_open_module_takes_the_newest_that_it_is_there_for(machine: Machine) -> None:
    machine.empty()
    report = machine.examine(kernel_module="open")
    assert (report.kernel_module, report.version) == ("open", OLD)
    assert "nvidia-open-kernel-dkms=535.261.03-1" in report.wanted


def test_a_host_without_a_wish_keeps_the_module_that_it_has(machine: Machine) -> None:
    machine.build()
    report = machine.examine(kernel_module="auto")
    assert (report.kernel_module, report.needed, report.unwanted) == ("proprietary", False, ())
    machine.device("0000:00:06.0", "0x2901")
    assert machine.examine(kernel_module="auto").kernel_module == "open"


def test_another_version(machine: Machine) -> None:
    machine.headers()
    report = machine.examine(version=NEW)
    assert (report.needed, report.version, report.problems) == (True, NEW, ())
    (simulation,) = [command for command in machine.commands if "--simulate" in command]
    # held, and needed by others in exactly their version
    assert "nvidia-alternative=535.309.01-0+deb12u1" in simulation
    assert "nvidia-alternative=535.309.01-0+deb12u1" in report.wanted
    assert not [one for one in report.wanted if one.startswith("nvidia-support")]


def test_another_module_takes_the_place_of_the_one_that_is_there(machine: Machine) -> None:
    machine.headers()
    machine.simulated = (0, recorded("bookworm-simulate.txt").replace("open-kernel", "kernel"), "")
    report = machine.examine(kernel_module="open")
    assert (report.needed, report.unwanted, report.problems) == (True, ("nvidia-kernel-dkms",), ())
    (simulation,) = [command for command in machine.commands if "--simulate" in command]
    assert simulation[-1] == "nvidia-kernel-dkms-"


def test_sources_of_the_role_do_not_count_as_the_hosts_own(machine: Machine) -> None:
    machine.build()
    first = machine.examine()
    machine.write("etc/apt/sources.list.d/deepseek-nvidia-driver.sources", first.sources)
    assert machine.examine().sources == first.sources


def test_a_repository_beside_the_distributions(machine: Machine) -> None:
    machine.empty()
    source = packages.Source("https://mirror/nvidia", ("/",), (), "/k.gpg")
    report = machine.examine(repository=source)
    assert report.sources.endswith(
        "Types: deb\nURIs: https://mirror/nvidia\nSuites: /\nSigned-By: /k.gpg\n"
    )
    assert (machine.folder / "sources.list.d" / f"{OWN}.sources").read_text() == report.sources


# What is refused


def test_no_gpu(machine: Machine) -> None:
    machine.build()
    (machine.sysfs / "bus/pci/devices/0000:00:06.0/vendor").write_text("0x1af4\n")
    assert only(machine.examine()).what == "the kernel sees no NVIDIA GPU"


def test_secure_boot_without_the_key(machine: Machine) -> None:
    machine.build()
    efi = machine.sysfs / "firmware" / "efi" / "efivars"
    efi.mkdir(parents=True)
    (efi / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(b"\x06\0\0\0\1")
    problem = only(machine.examine())
    assert problem.where == "/var/lib/dkms/mok.pub"
    assert "mokutil --import /var/lib/dkms/mok.pub" in problem.remedy


def test_a_kernel_without_headers(machine: Machine) -> None:
    machine.empty()
    problem = only(machine.examine(kernel_release="6.18.0-custom"))
    assert problem.where == "nvidia_driver_kernel_release"
    assert problem.what == (
        "the kernel 6.18.0-custom has no headers on this host, and no source has the package "
        "linux-headers-6.18.0-custom"
    )


def test_a_full_disk_counts_folders_of_one_file_system_together(machine: Machine) -> None:
    machine.empty()
    state = packages.shutil.disk_usage(machine.root)
    half = (state.free >> 20) * 2 // 3
    assert machine.examine(free={"/": half}).problems == ()
    problem = only(machine.examine(free={"/": half, "/var/none/yet": half}))
    assert problem.where == "nvidia_driver_free_mib"
    assert problem.what.startswith("the file system of /, /var/none/yet has ")


def test_a_version_that_nobody_has(machine: Machine) -> None:
    machine.empty()
    problem = only(machine.examine(version="999.1"))
    assert problem.where == "nvidia_driver_version"
    assert problem.what.startswith("it is 999.1, and no source has all of nvidia-kernel-dkms")
    assert f"{NEW}, {OLD}, 535.216.03" in problem.remedy


def test_a_mirror_that_does_not_answer(machine: Machine) -> None:
    machine.empty()
    machine.update = (100, "", "E: Failed to fetch http://deb.debian.org/debian")
    assert only(machine.examine()).what == (
        "package lists could not be fetched: Failed to fetch http://deb.debian.org/debian"
    )


def test_an_unsupported_system(machine: Machine) -> None:
    machine.write("etc/os-release", "ID=fedora\nVERSION_ID=42\n")
    problem = only(machine.examine())
    assert problem.what == "the host runs fedora 42"
    assert "debian 12, debian 13, ubuntu 22.04, ubuntu 24.04" in problem.remedy


def test_ubuntu_needs_the_branch(machine: Machine) -> None:
    machine.write("etc/os-release", 'ID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n')
    assert only(machine.examine()).where == "nvidia_driver_version"
    named = machine.examine(version="580.95.05")
    assert "nvidia-dkms-580" in only(named).what


def test_broken_packages(machine: Machine) -> None:
    machine.build()
    machine.audit = recorded("bookworm-audit.txt")
    assert only(machine.examine()).what == (
        "packages are not installed properly "
        "(nvidia-kernel-dkms   NVIDIA binary kernel module DKMS source)"
    )


def test_a_driver_of_the_run_installer(machine: Machine) -> None:
    machine.build()
    machine.write("usr/bin/nvidia-uninstall", "")
    assert only(machine.examine()).where == "/usr/bin/nvidia-uninstall"


def test_nouveau_is_in_the_way_unless_the_host_may_be_restarted(machine: Machine) -> None:
    machine.build()
    (machine.sysfs / "module" / "nouveau").mkdir(parents=True)
    assert only(machine.examine()).where == "nvidia_driver_reboot"
    assert machine.examine(restart=True).problems == ()


def test_a_loaded_module_is_not_replaced_by_accident(machine: Machine) -> None:
    machine.headers()
    (machine.sysfs / "module" / "nvidia").mkdir(parents=True)
    (machine.sysfs / "module" / "nvidia" / "version").write_text(f"{OLD}\n")
    problem = only(machine.examine(version=NEW))
    assert "playbooks/driver_upgrade.yml" in problem.remedy
    assert machine.examine(version=NEW, replace=True).problems == ()
    assert machine.examine(version=OLD).problems == ()
    # packages that were changed under a running module: whoever serves on it must be drained first
    (machine.sysfs / "module" / "nvidia" / "version").write_text("535.1\n")
    assert "the kernel module 535.1 is loaded" in only(machine.examine()).what
    assert machine.examine(replace=True).problems == ()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Inst linux-image-6.1.0-57-amd64 (6.1.200-1 Debian [amd64])", "change the kernel"),
        ("Remv docker.io [20.10]", "would remove docker.io"),
    ],
)
def test_an_installation_that_does_more_than_it_should(
    machine: Machine, line: str, says: str
) -> None:
    machine.empty()
    machine.packages += "docker.io\t20.10\tdocker.io\tinstall\tinstalled\n"
    machine.simulated = (0, line, "")
    assert says in only(machine.examine()).what


def test_packages_that_somebody_else_holds(machine: Machine) -> None:
    machine.headers()
    machine.packages = machine.packages.replace(
        "nvidia-smi\t535.261.03-1\tnvidia-graphics-drivers\tinstall",
        "nvidia-smi\t535.261.03-1\tnvidia-graphics-drivers\thold",
    )
    problem = only(machine.examine(version=NEW))
    assert "held, and not by this role (nvidia-smi)" in problem.what
    machine.write("etc/apt/preferences.d/deepseek-nvidia-driver", "")
    assert machine.examine(version=NEW).problems == ()


def test_packages_that_do_not_fit_together(machine: Machine) -> None:
    machine.headers()
    machine.simulated = (100, recorded("trixie-simulate-refused.txt"), "")
    assert "cannot be installed together" in only(machine.examine(version=NEW)).what


def test_nvswitches_need_fabric_manager_of_exactly_that_version(machine: Machine) -> None:
    machine.device("0000:00:08.0", "0x22a3", "0x068000")
    machine.headers()
    problem = only(machine.examine())
    assert problem.where == "nvidia_driver_fabric_manager"
    assert f"no source has nvidia-fabricmanager-535 in version {OLD}" in problem.what
    machine.policy += (
        "nvidia-fabricmanager-535:\n  Version table:\n     535.261.03-1 500\n"
        "        500 https://m  Packages\n"
    )
    assert "nvidia-fabricmanager-535=535.261.03-1" in machine.examine().wanted
    assert machine.examine(fabric_manager="absent").needed is False


def test_everything_wrong_at_once(machine: Machine) -> None:
    machine.empty()
    machine.write("usr/bin/nvidia-installer", "")
    (machine.sysfs / "module" / "nouveau").mkdir(parents=True)
    (machine.sysfs / "bus/pci/devices/0000:00:06.0/vendor").write_text("0x1af4\n")
    machine.audit = " half   broken\n"
    report = machine.examine(version="999.1", kernel_release="6.18.0", free={"/": 1 << 40})
    assert [problem.where for problem in report.problems] == [
        "nvidia_driver_sysfs",
        "/usr/bin/nvidia-installer",
        "nvidia_driver_reboot",
        "dpkg --audit",
        "nvidia_driver_free_mib",
        "nvidia_driver_version",
        "nvidia_driver_kernel_release",
    ]
