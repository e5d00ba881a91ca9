# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command of the host: what it gives, and the two ways to run one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

# As a shell says it.
_NOT_FOUND = 127


class Completed(NamedTuple):
    """Outcome of a command."""

    rc: int
    stdout: str
    stderr: str


class Run(Protocol):
    """Runs a command with *data* as its standard input, and waits for its end."""

    def __call__(self, command: Sequence[str], data: str = "", /) -> Completed:
        """Give the outcome, whatever the exit status is."""


def module_runner(module: Any) -> Run:
    """Give the runner of a module, for one thread: messages are in English; a program that the host lacks gives status 127."""

    def run(command: Sequence[str], data: str = "", /) -> Completed:
        program = module.get_bin_path(command[0])
        if program is None:
            return Completed(_NOT_FOUND, "", f"{command[0]} is not installed")
        rc, stdout, stderr = module.run_command(
            [program, *command[1:]],
            data=data or None,
            binary_data=True,
            environ_update={"LC_ALL": "C.UTF-8"},
        )
        return Completed(int(rc), str(stdout), str(stderr))

    return run


def run_command(command: Sequence[str], data: str = "", /) -> Completed:
    """Run a command without a module, as several threads may, and without proxies, which must not come between hosts of a site."""
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    done = subprocess.run(
        list(command), input=data, capture_output=True, text=True, check=False, env=environment
    )
    return Completed(done.returncode, done.stdout, done.stderr)
