# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules that are loaded: what they let in, with packets, and who notices that they are gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from example_site import SERVES, site, standard_flows

from ansible_collections.onprem.deepseek.plugins.module_utils.zones import ruleset as zone_rules
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.needs import needs
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.reading import read

ROOT = Path(__file__).resolve().parents[5]
SIMULATE = """
import json, subprocess, sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.simulation import simulate

def run(argv, data):
    done = subprocess.run(argv, input=data, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr

asked = json.load(sys.stdin)
print(json.dumps([simulate(run, table, asked["needs"], 0.3) for table in asked["tables"]]))
"""


def simulated(tables: list[str], wanted: list[dict[str, Any]]) -> Any:
    done = subprocess.run(
        [
            "unshare",
            "--map-root-user",
            "--net",
            sys.executable,
            "-c",
            SIMULATE,
            str(ROOT / ".cache/collections"),
        ],
        input=json.dumps({"tables": tables, "needs": wanted}),
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_clients_are_let_in_by_the_rules_and_not_by_rules_that_lack_their_flow() -> None:
    matrix, _unused = read(site())
    without, _unused = read(
        site(standard=[flow for flow in standard_flows() if "service/gateway" not in flow["to"]])
    )
    gateway = matrix.host("gateway-1")
    wanted = [need.plain() for need in needs(matrix, SERVES) if need.target_host == "gateway-1"]
    assert len(wanted) == 3
    stranger = {"source": "10.66.0.1", "target": "10.1.20.11", "port": 443}
    asked = [*wanted, stranger]
    tables = [
        zone_rules.ruleset(matrix, gateway),
        zone_rules.ruleset(without, without.host("gateway-1")),
        zone_rules.closed_ruleset(matrix, gateway),
    ]
    right, wrong, closed = simulated(tables, asked)
    assert right == ["reached"] * 3 + ["silent"]
    assert wrong == closed == ["silent"] * 4


def test_a_host_whose_rules_cannot_be_loaded_lets_administration_in_and_nothing_else() -> None:
    matrix, _unused = read(site())
    asked = [
        {"source": "10.1.10.1", "target": "10.1.10.31", "port": 22},
        {"source": "10.1.10.11", "target": "10.1.10.31", "port": 22},
        {"source": "10.1.10.1", "target": "10.1.10.31", "port": 8443},
        {"source": "10.1.40.21", "target": "10.1.40.31", "port": 8443},
    ]
    closed = zone_rules.closed_ruleset(matrix, matrix.host("storage-1"))
    assert simulated([closed], asked) == [["reached", "silent", "silent", "silent"]]


WATCH = ROOT / "roles/network_segmentation/files/deepseek-zones-watch"


@pytest.fixture
def watched(tmp_path: Path) -> Any:
    """Run the program that watches; for nft and systemctl, files stand in for table and timer."""
    tools = tmp_path / "bin"
    tools.mkdir()
    loaded = tmp_path / "loaded"
    (tools / "nft").write_text(
        f'#!/bin/sh\nif [ "$1" = -s ]; then cat {loaded} 2>/dev/null; else cp "$2" {loaded}; fi\n'
    )
    (tools / "systemctl").write_text(f"#!/bin/sh\n[ -e {tmp_path}/pending ]\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "boot.nft").write_text("right\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(WATCH), *words],
            env={"PATH": f"{tools}:{os.environ['PATH']}", "RUNTIME_DIRECTORY": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize("now", [None, "right\nand more\n", ""])
def test_rules_that_were_flushed_or_changed_are_noticed_and_loaded_again(
    watched: Any, tmp_path: Path, now: str | None
) -> None:
    loaded = tmp_path / "loaded"
    loaded.write_text("right\n")
    assert watched("record").returncode == 0
    assert watched("compare", str(tmp_path / "boot.nft")).returncode == 0
    if now is None:
        loaded.unlink()
    else:
        loaded.write_text(now)
    noticed = watched("compare", str(tmp_path / "boot.nft"))
    assert noticed.returncode == 1
    assert ("was changed by hand" if now else "was flushed") in noticed.stderr
    assert loaded.read_text() == "right\n"
    assert watched("compare", str(tmp_path / "boot.nft")).returncode == 0


def test_a_change_that_waits_for_its_confirmation_is_left_alone(
    watched: Any, tmp_path: Path
) -> None:
    loaded = tmp_path / "loaded"
    loaded.write_text("right\n")
    watched("record")
    loaded.write_text("new\n")
    (tmp_path / "pending").touch()
    assert watched("compare", str(tmp_path / "boot.nft")).returncode == 0
    assert loaded.read_text() == "new\n"
    (tmp_path / "pending").unlink()
    with subprocess.Popen(
        ["flock", str(tmp_path / "lock"), "sh", "-c", "echo held; read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert watched("compare", str(tmp_path / "boot.nft")).returncode == 0
        assert loaded.read_text() == "new\n"
        assert holder.stdin is not None
        holder.stdin.close()
