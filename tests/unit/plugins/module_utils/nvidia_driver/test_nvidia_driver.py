# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's driver: what a host needs, what is done about it, and what is refused."""

from __future__ import annotations

import pytest
from recorded_machine import KERNEL, NEW, OLD, Machine, recorded

from ansible_collections.onprem.deepseek.plugins.module_utils.common.findings import Finding
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver import apt as packages
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.host_state import Report
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.systems import OWN


def only(report: Report) -> Finding:
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


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
    assert (machine.directory / "sources.list.d" / f"{OWN}.sources").read_text() == report.sources


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


def test_a_full_disk_counts_directories_of_one_file_system_together(machine: Machine) -> None:
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
    assert "onprem.deepseek.driver_upgrade" in problem.remedy
    assert machine.examine(version=NEW, replace=True).problems == ()
    assert machine.examine(version=OLD).problems == ()
    # packages were changed under a running module: what serves on it must be drained first
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
