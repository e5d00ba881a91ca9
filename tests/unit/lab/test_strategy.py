# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a scenario starts, its test hosts above all, may use every processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
PLAY = {
    "hosts": "localhost",
    "connection": "local",
    "gather_facts": False,
    "tasks": [
        {
            "name": "Ask",
            "ansible.builtin.command": {
                "argv": [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"]
            },
            "register": "asked",
        },
        {"name": "Say", "ansible.builtin.debug": {"msg": "may use {{ asked.stdout }}"}},
    ],
}


def test_no_process_is_bound_to_a_processor(tmp_path: Path) -> None:
    playbook = tmp_path / "play.yml"
    playbook.write_text(yaml.safe_dump([PLAY]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), playbook],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STRATEGY": "mitogen_linear",
            "ANSIBLE_STRATEGY_PLUGINS": str(ROOT / "tests" / "lab" / "strategy"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"may use {os.sched_getaffinity(0)}" in done.stdout
