# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What upgrades packages at night leaves the driver alone, even without holds and pin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lab_hosts import hosts

# Its version is not the newest (host_vars).
testinfra_hosts = hosts("inference-1")

PIN = "/etc/apt/preferences.d/deepseek-nvidia-driver"
EXCLUSION = "/etc/apt/apt.conf.d/52deepseek-nvidia-driver"


@pytest.fixture
def excluded_only(host: Any) -> Iterator[None]:
    """Without holds and pin, which are put back."""
    held = host.check_output("apt-mark showhold").replace("\n", " ")
    host.check_output(f"apt-mark unhold {held} && mv {PIN} /root/pin")
    yield
    host.check_output(f"mv /root/pin {PIN} && apt-mark hold {held}")


@pytest.fixture
def unprotected(host: Any, excluded_only: None) -> Iterator[None]:
    """Without any protection."""
    host.check_output(f"mv {EXCLUSION} /root/exclusion")
    yield
    host.check_output(f"mv /root/exclusion {EXCLUSION}")


def upgraded(host: Any) -> list[str]:
    """What would be upgraded this night."""
    done = host.run("unattended-upgrade --dry-run --debug 2>&1")
    return [
        name
        for line in done.stdout.splitlines()
        if line.startswith("Packages that will be upgraded:")
        for name in line.partition(":")[2].split()
    ]


def test_the_exclusion_is_enough(host: Any, excluded_only: None) -> None:
    assert "nvidia-smi" not in upgraded(host)


def test_without_protection_it_is_upgraded(host: Any, unprotected: None) -> None:
    """So there was something to protect it from."""
    assert "nvidia-smi" in upgraded(host)
