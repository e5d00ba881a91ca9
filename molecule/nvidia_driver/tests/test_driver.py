# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole driver of one version: installed, held, built for the kernel, and started at boot."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from lab_hosts import hosts, name_of

testinfra_hosts = hosts("inference-1", "inference-2")

# Of the inventory's host_vars; the other host has the newest one.
WANTED = {"inference-1": "535.261.03"}
STAND_IN = os.environ.get("ONPREM_TEST_ALL") != "true"
PACKAGES = (
    r"dpkg-query --show"
    r" --showformat='${source:Package} ${Package} ${Version} ${db:Status-Status}\n'"
)


@pytest.fixture(scope="module")
def packages(host: Any) -> list[tuple[str, str, str]]:
    """Source, name and version of each installed package of NVIDIA's."""
    lines = [line.split() for line in host.check_output(PACKAGES).splitlines()]
    return [
        (source, name, version)
        for source, name, version, status in lines
        if source.startswith("nvidia") and status == "installed"
    ]


@pytest.fixture(scope="module")
def version(packages: list[tuple[str, str, str]]) -> str:
    """The one version of the driver's packages, as packages have it."""
    (found,) = {
        version
        for source, _name, version in packages
        if source.startswith("nvidia-graphics-drivers")
    }
    return found


@pytest.fixture(scope="module")
def kernel(host: Any) -> str:
    return str(host.check_output("ls /lib/modules").split()[0])


def test_the_wanted_version_is_installed(host: Any, packages: Any, version: str) -> None:
    assert len(packages) > 8
    assert version.startswith(WANTED.get(name_of(host), ""))


def test_every_package_is_held(host: Any, packages: Any) -> None:
    held = host.check_output("apt-mark showhold").split()
    assert {name for _source, name, _version in packages} <= set(held)


@pytest.mark.parametrize("module", ["nvidia-current", "nvidia-current-uvm"])
def test_modules_are_of_the_version_and_the_kernel(
    host: Any, kernel: str, version: str, module: str
) -> None:
    suffix = "" if host.system_info.codename == "bookworm" else ".xz"
    path = f"/lib/modules/{kernel}/updates/dkms/{module}.ko{suffix}"
    said = host.check_output("modinfo %s", path)
    fields = dict(re.findall(r"(?m)^(\w+): +(.*)$", said))
    assert fields["version"] == version.partition("-")[0]
    assert fields["vermagic"].split()[0] == kernel
    assert fields["description"].startswith("Stand-in ") == STAND_IN


def test_nouveau_is_blocked_at_boot_too(host: Any, kernel: str) -> None:
    assert "blacklist nouveau" in host.check_output("modprobe --showconfig").splitlines()
    initramfs = host.check_output(f"lsinitramfs /boot/initrd.img-{kernel}").splitlines()
    assert "etc/modprobe.d/deepseek-nvidia-driver.conf" in initramfs


def test_the_persistence_daemon_starts_at_boot(host: Any) -> None:
    unit = host.service("nvidia-persistenced.service").systemd_properties
    assert "--persistence-mode" in unit["ExecStart"]
    assert unit["UnitFileState"] == "enabled"
    assert unit["ActiveState"] == "inactive"


def test_no_kernel_was_added(host: Any, kernel: str) -> None:
    assert host.check_output("ls /boot").split().count(f"vmlinuz-{kernel}") == 1
    assert host.check_output("ls /boot").count("vmlinuz-") == 1
