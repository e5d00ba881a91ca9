# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start the next generation of HAProxy, which takes over the listeners of the present one.

Runs as `ExecReload=` of the gateway's unit, in its sandbox. Both generations accept for a moment, so no
connection is refused. HAProxy could end its predecessor itself (`-sf`), but systemd must know the new main
process before the old one is gone: otherwise it would take the unit for stopped.
"""

from __future__ import annotations

import argparse
import array
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ..common.service_manager import connected
from .runtime_api import HaproxyError, ask, process_id

START_SECONDS = 60
NOTICE_SECONDS = 10


class HandoverError(Exception):
    """The next generation did not take over; the present one goes on."""


def keep_states(control: str, file: Path) -> None:
    """Write down weights and states of the servers, which the next generation begins with."""
    written = file.with_suffix(".new")
    written.write_text(ask(control, "show servers state") + "\n", encoding="utf-8")
    written.replace(file)


def wait_until_it_listens(child: subprocess.Popen[bytes], control: str) -> None:
    """Return once the child answers at the runtime socket, which it binds after all other listeners."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if child.poll() is not None:
            raise HandoverError(
                f"the next generation ended with status {child.returncode}; its messages are above"
            )
        try:
            if process_id(control) == child.pid:
                return
        except HaproxyError:
            # the socket is being replaced
            pass
        time.sleep(0.05)
    raise HandoverError(f"the next generation did not take over within {START_SECONDS} seconds")


def tell_main_process(pid: int, environment: Mapping[str, str]) -> None:
    """Tell systemd which process the unit is now, and wait until it knows (sd_notify(3): MAINPID, BARRIER)."""
    reading, writing = os.pipe()
    with connected(environment["NOTIFY_SOCKET"]) as connection:
        connection.send(f"MAINPID={pid}".encode())
        descriptors = array.array("i", [writing])
        connection.sendmsg([b"BARRIER=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    os.close(writing)
    # systemd closes its end when it has come to this message
    poll = select.poll()
    poll.register(reading, select.POLLHUP)
    known = poll.poll(NOTICE_SECONDS * 1000)
    os.close(reading)
    if not known:
        raise HandoverError(
            f"systemd took no notice of the new process within {NOTICE_SECONDS} seconds"
        )


def hand_over(runtime: Path, command: list[str], environment: Mapping[str, str]) -> int:
    """Start command as the next generation and return its process id."""
    control = str(runtime / "admin.sock")
    present = int(environment["MAINPID"])
    keep_states(control, runtime / "servers")
    child = subprocess.Popen([*command, "-x", control])
    try:
        wait_until_it_listens(child, control)
        tell_main_process(child.pid, environment)
    except HandoverError:
        child.kill()
        child.wait()
        raise
    os.kill(present, signal.SIGUSR1)
    return child.pid


def main() -> int:
    """Hand over: `deepseek-gateway-handover RUNTIME_DIR COMMAND...`."""
    parser = argparse.ArgumentParser(
        description="Start the next generation of HAProxy. systemd runs this, as ExecReload= of the gateway's unit."
    )
    parser.add_argument("runtime", type=Path, help="directory with the runtime socket")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what starts HAProxy")
    given = parser.parse_args()
    try:
        pid = hand_over(given.runtime, given.command, os.environ)
    except (HandoverError, HaproxyError, OSError) as error:
        sys.stderr.write(f"not handed over: {error}\n")
        return 1
    sys.stderr.write(f"handed over to process {pid}\n")
    return 0
