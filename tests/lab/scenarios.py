# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run Molecule scenarios, three at a time: each has its own hosts, and waits for them a lot.

``scenarios.py [SCENARIO...]``: all of them if none is named. What each prints goes to
``.cache/molecule/SCENARIO.log``; of one that failed the end is shown, and the others go on. One
that prints nothing for an hour hangs: it is ended, and has failed. The last line counts them,
and the exit status is 0 only if all passed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AT_A_TIME = 3
HOSTS_AT_A_TIME = 18  # so many bear the 128 inotify instances that Linux gives a user (hosts.py)
LONG = ("site", "nvidia_driver")  # the second compiles kernel modules
# For all but the longest, which go first, and their hosts: so all end at about the same time.
NICE = ("nice", "-n", "5")
SHOWN = 120
SILENT_SECONDS = 3600  # the longest task compiles: half of it on a busy machine


@dataclass(frozen=True)
class Outcome:
    """How a scenario ended."""

    name: str
    passed: bool
    seconds: float
    log: Path


def scenarios(root: Path) -> list[str]:
    """All scenarios: the longest should not be the last to begin, and most hosts take most time."""

    def place(folder: Path) -> tuple[int, int, str]:
        first = LONG.index(folder.name) if folder.name in LONG else len(LONG)
        return first, -_hosts(folder), folder.name

    found = [path.parent for path in root.glob("molecule/*/molecule.yml")]
    return [folder.name for folder in sorted(found, key=place)]


def _hosts(folder: Path) -> int:
    inventory = folder / "inventory" / "hosts.yml"
    return inventory.read_text().count("lab_debian:") if inventory.exists() else 0


def run(root: Path, molecule: str, name: str, stop: threading.Event) -> Outcome:
    """Run one scenario from nothing to nothing."""
    log = root / ".cache" / "molecule" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            [*(() if name in LONG else NICE), molecule, "test", "--scenario-name", name],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be ended with all that it started
        )
        if reason := _wait(process, log, stop):
            print(f"\n{reason}", file=output)
    return Outcome(name, process.returncode == 0, time.monotonic() - began, log)


def _wait(process: subprocess.Popen[bytes], log: Path, stop: threading.Event) -> str:
    """Wait until it ends; the reason, if it had to be ended."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
            return ""
        silent = time.time() - log.stat().st_mtime
        if stop.is_set() or silent > SILENT_SECONDS:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "It was interrupted." if stop.is_set() else f"Ended: silent for {silent:.0f} s."


def run_all(root: Path, molecule: str, names: Sequence[str]) -> Iterator[Outcome]:
    """Run scenarios as the machine has room for their hosts, and give each when it has ended."""
    waiting = list(names)
    running: dict[concurrent.futures.Future[Outcome], int] = {}
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool, _stopped(stop):
        while waiting or running:
            for name in list(waiting):
                hosts = _hosts(root / "molecule" / name)
                room = HOSTS_AT_A_TIME - sum(running.values())
                if not running or (len(running) < AT_A_TIME and hosts <= room):
                    waiting.remove(name)
                    running[pool.submit(run, root, molecule, name, stop)] = hosts
            ended, _others = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for one in ended:
                del running[one]
                yield one.result()


@contextlib.contextmanager
def _stopped(stop: threading.Event) -> Iterator[None]:
    """Nothing goes on behind an interrupt: the pool waits for its threads, and they for this."""
    try:
        yield
    finally:
        stop.set()


def show(outcome: Outcome) -> None:
    word = "passed" if outcome.passed else "FAILED"
    print(f"{word} {outcome.name}: {outcome.seconds:.0f} s", flush=True)
    if not outcome.passed:
        lines = outcome.log.read_text(errors="replace").splitlines()
        print(*lines[-SHOWN:], f"All of it: {outcome.log}", sep="\n", flush=True)


def main(root: Path, names: list[str]) -> int:
    """Entry point; gives the exit status."""
    known = scenarios(root)
    if unknown := [name for name in names if name not in known]:
        print(f"no such scenario: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    molecule = shutil.which("molecule")
    if molecule is None:
        print("molecule is not in PATH; make molecule installs it and calls this program")
        return 2
    outcomes = []
    for outcome in run_all(root, molecule, names or known):
        outcomes.append(outcome)
        show(outcome)
    failed = sum(not outcome.passed for outcome in outcomes)
    print(f"scenarios: {len(outcomes) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    # Whoever ends this program ends the scenarios, which have sessions of their own.
    # What a shell runs in the background would ignore the first of these.
    for ends in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ends, signal.default_int_handler)
    sys.exit(main(ROOT, sys.argv[1:]))
