# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mitogen in scenarios: no process is bound to a processor, and some rollouts are without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
ASK = """
import os
print(os.sched_getaffinity(0), open(f"/proc/{os.getppid()}/cmdline").read().replace("\\0", " "))
"""
PLAY = {
    "hosts": "localhost",
    "connection": "local",
    "gather_facts": False,
    "tasks": [
        {
            "name": "Ask",
            "ansible.builtin.command": {"argv": [sys.executable, "-c", ASK]},
            "check_mode": False,
            "register": "asked",
        },
        {"name": "Say", "ansible.builtin.debug": {"msg": "may use {{ asked.stdout }}"}},
    ],
}
# Ansible's own strategy runs each module as a program of this name.
PROGRAM = "AnsiballZ_command"


def said(playbook: Path, strategy: str, *options: str, **environment: str) -> str:
    """What a playbook prints of the process that ran its module, with a strategy."""
    playbook.write_text(yaml.safe_dump([PLAY]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), playbook, *options],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STRATEGY": strategy,
            "ANSIBLE_STRATEGY_PLUGINS": str(ROOT / "tests" / "lab" / "strategy"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_process_is_bound_to_a_processor(tmp_path: Path) -> None:
    out = said(tmp_path / "play.yml", "mitogen_linear")
    assert f"may use {os.sched_getaffinity(0)}" in out
    assert PROGRAM not in out


@pytest.mark.parametrize(
    ("playbook", "options", "converged", "own"),
    [
        ("converge.yml", [], False, True),
        ("converge.yml", ["--check"], False, False),
        ("converge.yml", [], True, False),  # Molecule's idempotence
        ("verify.yml", [], False, False),
    ],
)
def test_only_the_first_rollout_has_ansibles_own_strategy(
    tmp_path: Path, playbook: str, options: list[str], converged: bool, own: bool
) -> None:
    state = tmp_path / "state.yml"
    state.write_text(yaml.safe_dump({"converged": converged}))
    out = said(tmp_path / playbook, "linear_rollout", *options, MOLECULE_STATE_FILE=str(state))
    assert (PROGRAM in out) == own
