# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readings of counters since an order: the first, the last, and one that is as old as an answer may take to begin."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .measures import Reading, Window
from .worker_measures import Reading as WorkerReading


@dataclass
class _Readings:
    fencing: int
    begin: Reading
    recent: deque[tuple[float, Reading]] = field(default_factory=deque)


@dataclass
class Windows:
    """By a name of what is read; `answer_seconds` is how long an answer may take to begin before it counts as a failure."""

    answer_seconds: float
    _readings: dict[tuple[str, str], _Readings] = field(default_factory=dict)

    def add(self, name: tuple[str, str], fencing: int, now: float, reading: Reading) -> Window:
        """Take a reading at a time in seconds; what was counted since the first one under this order."""
        readings = self._readings.get(name)
        if readings is None or readings.fencing != fencing:
            readings = self._readings[name] = _Readings(fencing, reading)
        recent = readings.recent
        recent.append((now, reading))
        while len(recent) > 1 and recent[1][0] <= now - self.answer_seconds:
            recent.popleft()
        at, oldest = recent[0]
        old_enough = at <= now - self.answer_seconds
        return Window(readings.begin, reading, oldest if old_enough else None)


@dataclass
class _Total:
    fencing: int
    began: float
    last: WorkerReading
    total: WorkerReading


@dataclass
class WorkerTotals:
    """What workers counted since an order, by model and worker: the sum of what was new in each reading, over their restarts."""

    _totals: dict[tuple[str, str], _Total] = field(default_factory=dict)

    def add(self, name: tuple[str, str], fencing: int, now: float, reading: WorkerReading) -> None:
        """Take a reading at a time in seconds."""
        known = self._totals.get(name)
        if known is None or known.fencing != fencing:
            self._totals[name] = _Total(fencing, now, reading, reading.since(reading))
            return
        known.total = known.total.plus(reading.since(known.last))
        known.last = reading

    def of(self, name: tuple[str, str], fencing: int) -> WorkerReading | None:
        """What a worker counted under an order; None before its first reading."""
        known = self._totals.get(name)
        return known.total if known and known.fencing == fencing else None

    def seconds(self, model: str, now: float) -> float:
        """For how long the worker of a model that was read last has been read under its order."""
        began = [one.began for (of, _worker), one in self._totals.items() if of == model]
        return now - max(began, default=now)
