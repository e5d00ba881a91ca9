# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules that are lost while a host runs, and a boot without their file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import testinfra
from lab_hosts import ADDRESSES, LAB, hosts, name_of

testinfra_hosts = hosts("inference-1")

LIST = "nft -s list table inet deepseek_zones"
FLUSH = "nft delete table inet deepseek_zones"
LOAD = "systemctl restart deepseek-zones.service"
WATCH = "systemctl start deepseek-zones-watch.service"
BOOT_FILE = "/etc/deepseek/zones.nft"
TIMED_OUT = 124  # timeout(1)


@pytest.fixture
def rules(host: Any) -> Iterator[str]:
    """What the host enforces, before and after the test."""
    before = str(host.check_output(LIST))
    yield before
    assert host.check_output(LIST) == before


def test_the_boot_loads_the_rules(host: Any, rules: str) -> None:
    host.check_output(FLUSH)
    host.check_output(LOAD)


def test_a_flush_is_logged_and_repaired(host: Any, rules: str) -> None:
    host.check_output(FLUSH)
    assert host.run(WATCH).rc != 0
    host.check_output(WATCH)
    unit = "--unit=deepseek-zones-watch.service"
    log = host.check_output(f"journalctl --quiet --output=cat --priority=err {unit}")
    assert "was flushed" in log


def test_a_boot_without_the_file_lets_in_administration_only(host: Any, rules: str) -> None:
    host.check_output(f"mv {BOOT_FILE} {BOOT_FILE}.lost")
    try:
        host.check_output(FLUSH)
        assert host.run(LOAD).rc != 0
        # Over a connection of its own: the one that is kept was there before.
        subprocess.run(
            [
                *("ssh", "-F", LAB / "ssh_config", "-o", "ControlMaster=no", "-o"),
                *("ControlPath=none", name_of(host), f"sudo {LIST}"),
            ],
            capture_output=True,
            timeout=300,  # ends a hang
            check=True,
        )
        (gateway,) = hosts("gateway-1")
        worker = f"</dev/tcp/{ADDRESSES[name_of(host)]['inference']}/8000"
        assert testinfra.get_host(gateway).run("timeout 2 bash -c %s", worker).rc == TIMED_OUT
    finally:
        host.check_output(f"mv {BOOT_FILE}.lost {BOOT_FILE}")
        host.check_output(LOAD)
