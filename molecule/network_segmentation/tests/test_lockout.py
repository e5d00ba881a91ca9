# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of rules that locked the controller out: verify.yml loaded them by force."""

from __future__ import annotations

from typing import Any

from lab_hosts import hosts, wait_for

# One whose controller waited for the end, and one whose controller died.
testinfra_hosts = hosts("storage-1", "storage-2")

UNITS = "deepseek-zones-revert.timer deepseek-zones-revert.service"


def test_the_host_restored_what_it_had(host: Any) -> None:
    def states() -> list[str]:
        found: list[str] = host.run(f"systemctl is-active {UNITS}").stdout.split()
        return found

    wait_for(states, lambda found: "active" not in found)
    enforced = host.check_output("nft -s list table inet deepseek_zones")
    assert enforced == host.file("/root/enforced").content_string.strip()
    log = "journalctl --quiet --output=cat --unit=deepseek-zones-revert.service --since=-10min"
    assert "Restores the packet filter" in host.check_output(log)
