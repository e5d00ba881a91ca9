# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A playbook that ansible-playbook runs with the settings and the collection of this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# This machine as a host, without another user.
HERE: dict[str, Any] = {
    "ansible_connection": "local",
    "ansible_become": False,
    "ansible_python_interpreter": sys.executable,
}
# Keeps a Python running for each host, as scenarios do. A run of the roles costs half as much, and
# what is asked and reported is the same. Tests of what a connection or a module's process says of
# its failure do without.
KEPT_PYTHON = {
    "ANSIBLE_STRATEGY": "mitogen_linear",
    "ANSIBLE_STRATEGY_PLUGINS": str(ROOT / "tests" / "lab" / "strategy"),
}


@dataclass(frozen=True)
class Played:
    """How a run ended: its status, what it printed, and what it printed with its errors."""

    status: int
    out: str
    said: str

    @property
    def words(self) -> str:
        """What it said, in one line however it was broken."""
        return " ".join(self.said.split())


def command(playbook: Path, *options: str, inventory: Path | str) -> list[str]:
    """The command that runs a playbook."""
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return [program, "--inventory", str(inventory), *options, str(playbook)]


def environment(**more: str) -> dict[str, str]:
    """The environment of such a command, with these variables beside those of the tests."""
    return {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        **more,
    }


def play(playbook: Path, *options: str, inventory: Path | str, **more: str) -> Played:
    """Run a playbook, with these variables of the environment beside those of the tests."""
    done = subprocess.run(
        command(playbook, *options, inventory=inventory),
        env=environment(**more),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Played(done.returncode, done.stdout, done.stdout + done.stderr)


def passed(playbook: Path, *options: str, inventory: Path | str, **more: str) -> Played:
    """Run a playbook that ends without an error."""
    done = play(playbook, *options, inventory=inventory, **more)
    assert done.status == 0, done.said
    return done
