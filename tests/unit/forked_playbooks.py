# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many commands of ansible-playbook, each in a fork of one process that has Ansible loaded.

What a command says and ends with is what it would in a process of its own. Loading Ansible takes
longer than reading a playbook and its inventory, so here it is done once. As a program this file
reads the commands from standard input and writes the results, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROGRAM = "ansible-playbook"


def forked(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], directory: Path
) -> list[tuple[int, str]]:
    """Run these commands in this directory; gives the status of each and what it said."""
    assert {Path(command[0]).name for command in commands} == {PROGRAM}
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(commands),
        env=dict(environment),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(status, said) for status, said in json.loads(done.stdout)]


def _in_a_fork(cli: Any, command: Sequence[str]) -> tuple[int, str]:
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            status = 250
            try:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                sys.argv = list(command)
                cli.cli_executor(list(command))
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _child, ended = os.waitpid(child, 0)
        said.seek(0)
        return os.waitstatus_to_exitcode(ended), said.read().decode()


if __name__ == "__main__":
    from ansible.cli.playbook import PlaybookCLI

    found = [_in_a_fork(PlaybookCLI, command) for command in json.load(sys.stdin)]
    json.dump(found, sys.stdout)
