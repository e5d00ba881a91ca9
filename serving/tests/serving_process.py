"""deepseek-serve as a process of its own that need not import all that it consists of.

Importing it takes a second of processor time, and the tests start some sixty. They are forked from
one process that has imported it and done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["deepseek_serving.server", "pytest"])


class ServingProcess:
    """What the tests use of subprocess.Popen."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        given = ([*arguments], {**environment}, log)
        self._process: ForkServerProcess = _FORKS.Process(target=_run, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("deepseek-serve", timeout)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            os.kill(self.pid, number)


def _run(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    with log.open("wb") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    from deepseek_serving import server

    sys.exit(server.main(arguments))
