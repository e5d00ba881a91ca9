# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a scenario costs, and whether that is far from what is recorded.

Seconds depend on the machine and on what else it does: they are written down and not judged. Task
results and hosts do not, and are what a scenario's time grows with.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

GROWTH = 1.2
NO_HOSTS = "no cgroup of a test host was listed"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m|[│┌└─]")
_PHASE = re.compile(r"^INFO\s+\S+ ➜ (\w+): Executing$")
# Ansible's recap, which is broken into two lines where it is long; changed ones are among the ok.
_RECAP = re.compile(
    r"(\S+)\s+: ok=(\d+)\s+changed=\d+\s+unreachable=(\d+)\s+failed=(\d+)"
    r"\s+skipped=(\d+)\s+rescued=(\d+)"
)
_CONTROLLER = "localhost"


@dataclass
class Phase:
    """One playbook of a scenario.

    Processor seconds of the controller are those of Molecule and of every process that it waited
    for; those of the hosts are of all that ran in their containers, and None where *unread* says
    why they could not be read.
    """

    name: str
    seconds: float = 0.0
    controller_processor_seconds: float = 0.0
    hosts_processor_seconds: float | None = None
    unread: str = ""
    task_results: int = 0
    hosts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Times:
    """What one run of a scenario has cost, phase by phase."""

    phases: tuple[Phase, ...]
    seconds: float
    controller_processor_seconds: float

    @property
    def task_results(self) -> int:
        return sum(phase.task_results for phase in self.phases)

    @property
    def hosts(self) -> int:
        return len({host for phase in self.phases for host in phase.hosts} - {_CONTROLLER})

    @property
    def hosts_processor_seconds(self) -> float | None:
        """None where those of one phase could not be read."""
        known = [phase.hosts_processor_seconds for phase in self.phases]
        return None if None in known else sum(seconds for seconds in known if seconds is not None)

    def as_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1),
            "controller_processor_seconds": round(self.controller_processor_seconds, 1),
            "hosts_processor_seconds": _rounded(self.hosts_processor_seconds),
            "task_results": self.task_results,
            "hosts": self.hosts,
            "phases": [
                asdict(phase)
                | {
                    "seconds": round(phase.seconds, 1),
                    "controller_processor_seconds": round(phase.controller_processor_seconds, 1),
                    "hosts_processor_seconds": _rounded(phase.hosts_processor_seconds),
                    "hosts": len(set(phase.hosts) - {_CONTROLLER}),
                }
                for phase in self.phases
            ],
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


class Hosts:
    """The processor time of test hosts: cpu.stat (cgroups(7)) of the cgroups hosts.py lists."""

    def __init__(self, listed: Path) -> None:
        self.listed = listed
        self.last: dict[str, float] = {}
        self.earlier = 0.0  # of hosts that were started again, which count from 0 then
        self.failed: dict[str, str] = {}
        self.look()
        # What hosts had used that were there before is not this scenario's.
        self.before = sum(self.last.values())

    def look(self) -> None:
        """Note what each host has used; one that is gone keeps what it had used when last seen."""
        try:
            cgroups = self.listed.read_text(encoding="utf-8").split("\n")
        except OSError:
            return
        for cgroup in filter(None, cgroups):
            try:
                text = Path(cgroup, "cpu.stat").read_text(encoding="ascii")
                microseconds = int(dict(line.split() for line in text.splitlines())["usage_usec"])
            except (OSError, ValueError, KeyError) as error:
                if cgroup not in self.last:
                    self.failed[cgroup] = f"{cgroup}/cpu.stat: {error!r}"
            else:
                self.failed.pop(cgroup, None)
                last = self.last.get(cgroup, 0.0)
                self.last[cgroup] = microseconds / 1e6
                if self.last[cgroup] < last:
                    self.earlier += last

    def seconds(self) -> float:
        return self.earlier + sum(self.last.values()) - self.before

    def unread(self) -> str:
        """Why the seconds are not known; empty if they are."""
        return "; ".join(self.failed.values()) if self.last or self.failed else NO_HOSTS


class Meter:
    """Follows a running scenario by what Molecule writes to its log."""

    def __init__(self, pid: int, log: Path, cgroups: Path) -> None:
        self.pid, self.log, self.hosts = pid, log, Hosts(cgroups)
        self.began = self.turned = time.monotonic()
        self.read = 0
        self.controller = self.controller_turned = self.hosts_turned = 0.0
        self.phases: list[Phase] = []

    def look(self) -> None:
        """Note what has happened since the last time."""
        self._look_at_controller()
        self.hosts.look()
        with self.log.open("rb") as file:
            file.seek(self.read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.read += len(whole)
        for line in _plain(whole.decode(errors="replace")).splitlines():
            if found := _PHASE.match(line.strip()):
                self._turn()
                self.phases.append(Phase(found[1]))

    def _look_at_controller(self) -> None:
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return
        # utime, stime, cutime and cstime (proc_pid_stat(5)); the second field may hold spaces.
        ticks = sum(int(one) for one in stat.rpartition(")")[2].split()[11:15])
        self.controller = ticks / os.sysconf("SC_CLK_TCK")

    def _turn(self) -> None:
        """Credit the phase that has ended with what was used since it began."""
        now, hosts = time.monotonic(), self.hosts.seconds()
        if self.phases:
            phase = self.phases[-1]
            phase.seconds = now - self.turned
            phase.controller_processor_seconds = self.controller - self.controller_turned
            phase.unread = self.hosts.unread()
            # Before the first hosts there are none to be read.
            none_yet = phase.unread == NO_HOSTS and not _needs_hosts(self.phases)
            if not phase.unread or none_yet:
                phase.unread, phase.hosts_processor_seconds = "", hosts - self.hosts_turned
        self.turned, self.controller_turned, self.hosts_turned = now, self.controller, hosts

    def end(self) -> Times:
        """What it has cost, once it has ended and before it is waited for."""
        self.look()
        self._turn()
        count_results(self.log.read_text(encoding="utf-8", errors="replace"), self.phases)
        return Times(tuple(self.phases), time.monotonic() - self.began, self.controller)


def _needs_hosts(phases: list[Phase]) -> bool:
    return any(phase.name == "create" for phase in phases)


def _plain(text: str) -> str:
    return _ESCAPES.sub("", text)


def count_results(log: str, phases: list[Phase]) -> None:
    """Fill in the task results and the hosts of each phase, from Ansible's recaps in the log."""
    current = iter(phases)
    parts = re.split(r"(?m)^INFO\s+\S+ ➜ \w+: Executing$", re.sub(r"(?m)^ +| +$", "", _plain(log)))
    for part in parts[1:]:
        phase = next(current)
        for host, *counts in _RECAP.findall(part):
            phase.hosts.append(host)
            phase.task_results += sum(map(int, counts))


def growth(name: str, times: Times, recorded: dict[str, Any]) -> list[str]:
    """What is wrong with what a scenario has cost, compared with what is recorded."""
    if not times.task_results:
        return [f"{name}: its log has no task results; scenario_times.py does not understand it"]
    if name not in recorded:
        return [f"{name}: nothing is recorded of it"]
    changed = []
    for key, word, now in (
        ("task_results", "task results", times.task_results),
        ("hosts", "hosts", times.hosts),
    ):
        before = recorded[name][key]
        if now > before * GROWTH:
            changed.append(
                f"{name}: {now} {word}, over {GROWTH - 1:.0%} more than the {before} recorded"
            )
        elif now * GROWTH < before:
            changed.append(
                f"{name}: {now} {word}, and {before} are recorded: something may be left out"
            )
    return changed


def read(path: Path) -> dict[str, Any]:
    """The scenarios of a file of ours; none if it is not there."""
    if not path.exists():
        return {}
    scenarios: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["scenarios"]
    return scenarios


def write(path: Path, scenarios: dict[str, Any]) -> None:
    """Write a file of ours, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    text = json.dumps({"scenarios": dict(sorted(scenarios.items()))}, indent=2)
    new.write_text(f"{text}\n", encoding="utf-8")
    new.replace(path)
