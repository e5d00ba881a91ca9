# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run Molecule scenarios, three at a time: each has its own hosts, and waits for them a lot.

``scenarios.py [SCENARIO...]``: all of them if none is named. What each prints goes to
``.cache/molecule/SCENARIO.log``; of one that failed the end is shown, and the others go on. One
that prints nothing for an hour hangs: it is ended, and has failed. The last line counts them,
and the exit status is 0 only if all passed.

What each cost is in ``.cache/molecule/times.json``: seconds, processor seconds of the controller
and of the hosts, task results and hosts, of every phase. The run has failed if a scenario's task
results or hosts are over a fifth more than what ``recorded.json`` says, or so much fewer: then
something may not be tested any more. After a change that is meant to add or remove some,
``scenarios.py --record`` writes there what the last run of each had.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scenario_times
from scenario_times import Meter, Times

ROOT = Path(__file__).resolve().parents[2]
AT_A_TIME = 3
HOSTS_AT_A_TIME = 18  # so many bear the 128 inotify instances that Linux gives a user (hosts.py)
# First, in this order. inference and model_release take over what serving_environment has installed
# (package.yml), and model_release waits a lot; the last compiles kernel modules in make test-all.
FIRST = (
    "site",
    "serving_environment",
    "model_engine",
    "inference",
    "model_release",
    "nvidia_driver",
)
# For all but the longest, and their hosts: so all end at about the same time.
LONGEST = FIRST[0]
NICE = ("nice", "-n", "5")
SHOWN = 120
SILENT_SECONDS = 3600  # the longest task compiles: half of it on a busy machine
LOOK_SECONDS = 0.25
# That a second run of their role changes nothing is proven by the longest, too: by themselves in
# make test-all, or when Molecule is started by hand.
SECOND_RUN_ELSEWHERE = ("model_storage", "serving_environment", "tls")
# make test-all: the scenarios do more, and their task results are not compared.
TEST_ALL = "ONPREM_TEST_ALL"


@dataclass(frozen=True)
class Outcome:
    """How a scenario ended."""

    name: str
    passed: bool
    times: Times
    log: Path
    test_all: bool = False


def times_file(root: Path) -> Path:
    """What the last run of each scenario has cost."""
    return root / ".cache" / "molecule" / "times.json"


def recorded_file(root: Path) -> Path:
    """What each may cost, in the repository."""
    return root / "tests" / "lab" / "recorded.json"


def scenarios(root: Path) -> list[str]:
    """All scenarios: the longest should not be the last to begin, and most hosts take most time."""

    def place(scenario: Path) -> tuple[int, int, str]:
        first = FIRST.index(scenario.name) if scenario.name in FIRST else len(FIRST)
        return first, -_hosts(scenario), scenario.name

    found = [path.parent for path in root.glob("molecule/*/molecule.yml")]
    return [scenario.name for scenario in sorted(found, key=place)]


def _hosts(scenario: Path) -> int:
    inventory = scenario / "inventory" / "hosts.yml"
    return inventory.read_text().count("lab_debian:") if inventory.exists() else 0


def _lab(scenario: Path) -> Path:
    """What hosts.py has of a scenario's hosts; their cgroups are in a file there."""
    inventory = scenario / "inventory" / "hosts.yml"
    found = re.search(r"lab_name: (\S+)", inventory.read_text()) if inventory.exists() else None
    state = os.environ.get("ONPREM_LAB_STATE", "/var/lib/onprem-deepseek-lab")
    return Path(state, "labs", found[1] if found else scenario.name)


def _is_left(scenario: Path) -> bool:
    """Whether an earlier run has left hosts, or what Molecule knows of them."""
    home = Path(os.environ.get("ANSIBLE_HOME", "~/.ansible")).expanduser()
    states = home.glob(f"tmp/molecule.*.{scenario.name}/state.yml")
    known = any(": true" in state.read_text(encoding="utf-8") for state in states)
    return known or _lab(scenario).exists()


def run(root: Path, molecule: str, name: str, stop: threading.Event) -> Outcome:
    """Run one scenario from nothing to nothing."""
    log = root / ".cache" / "molecule" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    test_all = os.environ.get(TEST_ALL) == "true"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*(() if name == LONGEST else NICE), molecule, "test", "--scenario-name", name],
            cwd=root,
            env={**os.environ, **_sequence(root / "molecule" / name, test_all)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be ended with all that it started
        )
        meter = Meter(process.pid, log, _lab(root / "molecule" / name) / "cgroups")
        if reason := _wait(process, meter, stop):
            print(f"\n{reason}", file=output)
        times = meter.end()
    return Outcome(name, process.wait() == 0, times, log, test_all)


def _sequence(scenario: Path, test_all: bool) -> dict[str, str]:
    """Which phases it has and which not: a molecule.yml has no conditions, but variables.

    In the place of a phase that is left out come its dependencies, of which there are none.
    """
    phases = {"ONPREM_CHECK_AFTER": "check"} if test_all else {}
    if not test_all and scenario.name in SECOND_RUN_ELSEWHERE:
        phases["ONPREM_SECOND_RUN"] = "dependency"
    if not _is_left(scenario):
        phases["ONPREM_DESTROY_BEFORE"] = "dependency"
    return phases


def _wait(process: subprocess.Popen[bytes], meter: Meter, stop: threading.Event) -> str:
    """Wait until it ends, and leave it to be waited for; the reason, if it had to be ended."""
    options = os.WEXITED | os.WNOWAIT
    while os.waitid(os.P_PID, process.pid, options | os.WNOHANG) is None:
        meter.look()
        silent = time.time() - meter.log.stat().st_mtime
        if stop.is_set() or silent > SILENT_SECONDS:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            os.waitid(os.P_PID, process.pid, options)
            return "It was interrupted." if stop.is_set() else f"Ended: silent for {silent:.0f} s."
        stop.wait(LOOK_SECONDS)
    return ""


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
    times = outcome.times
    used = times.hosts_processor_seconds
    of_hosts = "unknown" if used is None else f"{used:.0f}"
    print(
        f"{word} {outcome.name}: {times.seconds:.0f} s; processor seconds: "
        f"{times.controller_processor_seconds:.0f} here, {of_hosts} on the hosts; "
        f"{times.task_results} task results on {times.hosts} hosts",
        flush=True,
    )
    if not outcome.passed:
        lines = outcome.log.read_text(errors="replace").splitlines()
        print(*lines[-SHOWN:], f"All of it: {outcome.log}", sep="\n", flush=True)


def keep(root: Path, outcome: Outcome, known: Sequence[str]) -> None:
    """Write down what a scenario has cost."""
    kept = {
        name: one for name, one in scenario_times.read(times_file(root)).items() if name in known
    }
    ended = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    kept[outcome.name] = {
        "ended": ended,
        "passed": outcome.passed,
        "test_all": outcome.test_all,
        **outcome.times.as_json(),
    }
    scenario_times.write(times_file(root), kept)


def record(root: Path, known: Sequence[str]) -> int:
    """Record what the last run of each scenario had; gives the exit status.

    One without a run that has passed, of make test, keeps what is recorded of it.
    """
    ran = scenario_times.read(times_file(root))
    good = {name: ran[name] for name in known if name in ran and _counts(ran[name])}
    recorded = scenario_times.read(recorded_file(root))
    new = {name: one for name, one in recorded.items() if name in known}
    for name, one in good.items():
        new[name] = {"hosts": one["hosts"], "task_results": one["task_results"]}
        if new[name] != recorded.get(name):
            print(f"{name}: {recorded.get(name, 'nothing')} -> {new[name]}")
    scenario_times.write(recorded_file(root), new)
    if missing := [name for name in known if name not in good]:
        print(f"without a run that has passed: {', '.join(missing)}; run them, and record again")
    return int(any(name not in new for name in known))


def _counts(run: dict[str, Any]) -> bool:
    return bool(run["passed"] and not run["test_all"] and run["task_results"])


def main(root: Path, names: list[str]) -> int:
    """Entry point; gives the exit status."""
    known = scenarios(root)
    if names == ["--record"]:
        return record(root, known)
    if unknown := [name for name in names if name not in known]:
        print(f"no such scenario: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    molecule = shutil.which("molecule")
    if molecule is None:
        print("molecule is not in PATH; make molecule installs it and calls this program")
        return 2
    outcomes = []
    grown: list[str] = []
    recorded = scenario_times.read(recorded_file(root))
    for outcome in run_all(root, molecule, names or known):
        outcomes.append(outcome)
        show(outcome)
        keep(root, outcome, known)
        if outcome.passed and not outcome.test_all:
            grown += scenario_times.growth(outcome.name, outcome.times, recorded)
    failed = sum(not outcome.passed for outcome in outcomes)
    if grown:
        print(*grown, sep="\n")
        print(
            "Remove what is not needed, or restore what is. If the change is meant: "
            "python tests/lab/scenarios.py --record"
        )
    print(f"scenarios: {len(outcomes) - failed} passed, {failed} failed")
    return int(failed > 0 or bool(grown))


if __name__ == "__main__":
    # What ends this program ends the scenarios, which have sessions of their own.
    # What a shell runs in the background would ignore the first of these.
    for ends in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ends, signal.default_int_handler)
    sys.exit(main(ROOT, sys.argv[1:]))
