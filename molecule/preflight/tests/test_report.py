# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What preflight reports of hosts as they must be, and of hosts with faults; and what it leaves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lab_hosts import LAB, hosts, run_program
from markupsafe import escape

testinfra_hosts = hosts("node-1", "node-2", "node-3")

FINGERPRINT = Path(__file__).resolve().parents[1] / "files" / "fingerprint.py"
PAIRS = {"node-1 -> node-2", "node-2 -> node-1", "node-2 -> node-3", "node-3 -> node-1"}
WAYS = {"bandwidth_mbps", "loss_percent", "path_mtu", "port", "rtt_ms"}
ON_EACH_HOST = ("cpus", "clock_synchronised", "disk_read_mb_s")


def checks(report: str) -> list[dict[str, Any]]:
    """The checks of a report: converge.yml has written ``right``, and verify.yml ``faults``."""
    found: list[dict[str, Any]] = json.loads(
        (LAB / report / "preflight.json").read_text(encoding="utf-8")
    )["checks"]
    return found


def test_each_pair_is_measured_once_in_each_way() -> None:
    judged = [check for check in checks("right") if "->" in check["host"]]
    assert {check["status"] for check in judged} == {"ok"}
    assert sorted((check["host"], check["name"]) for check in judged) == sorted(
        (pair, way) for pair in PAIRS for way in WAYS
    )


def test_each_fault_is_reported_once_with_a_remedy_and_nothing_else() -> None:
    wrong = [check for check in checks("faults") if check["status"] == "failed"]
    assert sorted(check["name"] for check in wrong) == sorted(
        ["address", "mtu", "path_mtu", "port", "port", *ON_EACH_HOST * 3]
    )
    assert all(check["remedy"] for check in wrong)
    page = (LAB / "faults" / "preflight.html").read_text(encoding="utf-8")
    assert [check for check in wrong if escape(check["found"]) not in page] == []
    assert "src=" not in page
    assert "href=" not in page


def test_nothing_is_changed(host: Any) -> None:
    before = Counter(host.file("/run/fingerprint").content_string.splitlines())
    after = Counter(run_program(host, FINGERPRINT.read_text()).splitlines())
    assert (before - after, after - before) == (Counter(), Counter())
