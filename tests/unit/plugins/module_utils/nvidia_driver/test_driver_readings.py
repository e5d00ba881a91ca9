# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What devices, Secure Boot, packages, DKMS and sources of apt say, as it is read."""

from __future__ import annotations

import pytest
from recorded_machine import NEW, OLD, Machine, recorded

from ansible_collections.onprem.deepseek.plugins.module_utils.gpu import pci
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver import apt as packages
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.host_state import (
    parse_dkms,
    secure_boot,
)

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
