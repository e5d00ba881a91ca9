# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill a run of ansible-playbook where a task begins, as a controller that loses power.

    python tests/lab/interrupted.py --tasks N [--at PART] -- ansible-playbook ARGUMENTS...

N is about how many tasks the run has, those of roles that it includes as well; PART, from 0 to 1,
is where among them it is killed, and without it that is anywhere. What was printed until then and
where it was goes to standard output, so that the same can be tried again. Connections and modules
on hosts are left to themselves.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys

TASK = "TASK ["


def run(command: list[str], last: int) -> str:
    """The task that had just begun when the run was killed; empty where it had ended by then."""
    begun = 0
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            begun += TASK in line
            if begun > last:
                os.killpg(process.pid, signal.SIGKILL)
                return line.strip(" *\n")
    if process.returncode:
        sys.exit(f"it failed by itself with status {process.returncode}")
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a run of ansible-playbook in its midst.")
    parser.add_argument("--tasks", type=int, required=True, metavar="N")
    anywhere = random.SystemRandom().random()
    parser.add_argument("--at", type=float, default=anywhere, metavar="PART")
    parser.add_argument("command", nargs="+")
    wanted = parser.parse_args()
    last = int(wanted.at * wanted.tasks)
    where = run(wanted.command, last)
    print(
        f"--at={wanted.at:.4f}, task {last + 1}: {f'killed at {where}' if where else 'not killed'}"
    )


if __name__ == "__main__":
    main()
