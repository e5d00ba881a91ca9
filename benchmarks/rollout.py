# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Minutes per role of a rollout on new hosts, and of a second run that has nothing to change.

    python benchmarks/rollout.py [--json FILE] [--keep]

Creates six hosts beside whatever lab there is, and removes them. The peer is what Ansible takes for
as many results of a module that does nothing, on the same hosts, measured in the same run (median).
A ratio below one means that many steps need no connection. Ratios are over the peer, or the goal.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
PLAYBOOK = str(Path(sys.prefix) / "bin" / "ansible-playbook")
GOALS = {"fresh": 8 * 60.0, "second": 90.0}
PING_TASKS = 20
PING_RUNS = 3


@dataclass(frozen=True)
class Run:
    """One run of a playbook: seconds in all and by role, and the number of results."""

    seconds: float
    tasks: int
    results: int
    changed: int
    roles: dict[str, float]


def inventory_beside(folder: Path) -> Path:
    """Copy the lab's inventory under another name, with addresses of its own."""
    target = folder / "inventory"
    shutil.copytree(ROOT / "inventories" / "lab", target)
    hosts = target / "hosts.yml"
    text = re.sub("lab_octet: .*", "lab_octet: 108", hosts.read_text(encoding="utf-8"))
    hosts.write_text(text.replace("lab_name: lab", "lab_name: bench"))
    return target


def play(inventory: Path, playbook: Path) -> Run:
    """Run a playbook; its output is shown only if it fails."""
    with tempfile.NamedTemporaryFile(suffix=".json") as timings:
        start = time.monotonic()
        done = subprocess.run(
            [PLAYBOOK, f"--inventory={inventory}", str(playbook)],
            cwd=ROOT,
            env={**os.environ, "ONPREM_DEEPSEEK_TIMINGS": timings.name},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
        if done.returncode:
            sys.exit(f"{playbook.name} failed\n{done.stdout}{done.stderr}")
        written: dict[str, Any] = json.loads(Path(timings.name).read_text())
    tasks = len(re.findall(r"^\[\d+:\d\d elapsed\]$", done.stdout, re.MULTILINE))
    return Run(seconds, tasks, written["ok"], written["changed"], written["roles"])


def ping(inventory: Path, folder: Path) -> float:
    """Seconds that Ansible takes for one result of a module that does nothing: a median."""
    tasks = [{"name": "Answer", "ansible.builtin.ping": {}}] * PING_TASKS
    plays = [
        {"name": "Ping", "hosts": "all", "become": True, "gather_facts": False, "tasks": tasks}
    ]
    playbook = folder / "ping.yml"
    playbook.write_text(json.dumps(plays))
    runs = [play(inventory, playbook) for run in range(PING_RUNS)]
    return statistics.median(run.seconds / run.results for run in runs)


def report(runs: dict[str, Run], per_result: float) -> dict[str, Any]:
    """Put figures, peers and goals together."""
    return {
        name: {
            "seconds": round(run.seconds, 1),
            "tasks": run.tasks,
            "results": run.results,
            "changed": run.changed,
            "ping_seconds": round(per_result * run.results, 1),
            "over_ping": round(run.seconds / (per_result * run.results), 2),
            "goal_seconds": GOALS[name],
            "over_goal": round(run.seconds / GOALS[name], 2),
            "roles": {role: round(seconds, 1) for role, seconds in run.roles.items()},
        }
        for name, run in runs.items()
    }


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console(width=100)
    table = Table(title="Minutes per role")
    table.add_column("role")
    for name in figures:
        table.add_column(f"{name} run", justify="right")
    roles = sorted(figures["fresh"]["roles"], key=lambda role: -figures["fresh"]["roles"][role])
    for role in roles:
        times = [figure["roles"].get(role, 0.0) for figure in figures.values()]
        table.add_row(role, *(f"{seconds / 60:.2f}" for seconds in times))
    table.add_section()
    table.add_row("in all", *(f"{figure['seconds'] / 60:.2f}" for figure in figures.values()))
    for key in (
        "tasks",
        "results",
        "changed",
        "ping_seconds",
        "over_ping",
        "goal_seconds",
        "over_goal",
    ):
        table.add_row(key.replace("_", " "), *(str(figure[key]) for figure in figures.values()))
    console.print(table)


def measures(figures: dict[str, Any]) -> dict[str, Any]:
    """Give the figures in the form that all benchmarks write; the goals are limits on seconds."""
    return {
        f"rollout_{name}": {
            "value": figure["seconds"],
            "unit": "s",
            "against": figure["ping_seconds"],
            "ratio": figure["over_ping"],
            "goal": figure["goal_seconds"],
        }
        for name, figure in figures.items()
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="file that also receives the figures")
    parser.add_argument("--keep", action="store_true", help="leave the hosts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inventory = inventory_beside(folder)
        play(inventory, ROOT / "playbooks" / "bundle_fetch.yml")
        try:
            play(inventory, ROOT / "tests" / "lab" / "create.yml")
            play(inventory, ROOT / "tests" / "lab" / "checkpoint.yml")
            site = ROOT / "playbooks" / "site.yml"
            runs = {"fresh": play(inventory, site), "second": play(inventory, site)}
            figures = report(runs, ping(inventory, folder))
        finally:
            if not arguments.keep:
                play(inventory, ROOT / "tests" / "lab" / "destroy.yml")
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(measures(figures), indent=2) + "\n")


if __name__ == "__main__":
    main()
