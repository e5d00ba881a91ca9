# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the judge's thresholds cost: seeded stages of invented requests, judged by the judge's own rules."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from .judge import BAD, FAILURES, GOOD, HOLD, Counts, Settings, is_bad, is_good


@dataclass(frozen=True)
class Case:
    """Releases to be told apart: shares of bad requests as parts of 1, and how requests are divided.

    Of several measures the first has the canary's share ``stable + worse``, the others are equal. The canary is judged after every
    ``step`` of its requests.
    """

    stable: float
    worse: float
    share: float = 0.05
    measures: int = 1
    step: int = 20


@dataclass(frozen=True)
class Outcomes:
    """How many stages ended how, and after how many canary requests."""

    trials: int
    bad: tuple[int, ...]  # canary requests, one for each stage that was found bad
    good: tuple[int, ...]
    undecided: int

    def bad_within(self, requests: int) -> float:
        """Part of all stages that were found bad within so many canary requests."""
        return sum(1 for one in self.bad if one <= requests) / self.trials

    def rolled_back(self) -> float:
        """Part of all stages that were rolled back: found bad, or undecided at their end."""
        return (len(self.bad) + self.undecided) / self.trials


class Boundaries:
    """From how many bad canary requests on a stage is bad, and up to how many it is good, kept for counts that come again."""

    def __init__(self, settings: Settings, measures: int, share: float, name: str) -> None:
        """``share``: the canary's part of all requests."""
        self.settings, self.margins = settings, settings.margins[name]
        self.bad_from = 1.0 - settings.doubt_bad / measures
        self.per_canary = (1 - share) / share
        self._bad: dict[tuple[int, int], int] = {}
        self._good: dict[tuple[int, int], int] = {}
        # More bad requests are never better, and boundaries of like counts are close: the last one is where the next search begins.
        self._last_bad = settings.least_failures
        self._last_good = -1

    def stable_all(self, canary_all: int) -> int:
        """Requests to the stable release by the time that the canary has had so many."""
        return round(canary_all * self.per_canary)

    def verdict(self, canary_bad: int, canary_all: int, stable_bad: int) -> str:
        """What the judge says of these counts."""
        excess = canary_bad / canary_all - stable_bad / self.stable_all(canary_all)
        at = (canary_all, stable_bad)
        if canary_bad >= self.settings.least_failures and excess > self.margins.tolerated:
            if at not in self._bad:
                self._bad[at] = self._last_bad = self._least_bad(canary_all, stable_bad)
            if canary_bad >= self._bad[at]:
                return BAD
        if canary_all >= self.settings.least_requests and excess <= self.margins.unacceptable:
            if at not in self._good:
                self._good[at] = self._last_good = self._most_good(canary_all, stable_bad)
            if canary_bad <= self._good[at]:
                return GOOD
        return HOLD

    def _counts(self, canary_bad: int, canary_all: int, stable_bad: int) -> Counts:
        return Counts(canary_bad, canary_all, stable_bad, self.stable_all(canary_all))

    def _least_bad(self, canary_all: int, stable_bad: int) -> int:
        def bad(canary_bad: int) -> bool:
            counts = self._counts(canary_bad, canary_all, stable_bad)
            return is_bad(counts, self.settings, self.margins, self.bad_from)

        found = min(self._last_bad, canary_all)
        while found > self.settings.least_failures and bad(found - 1):
            found -= 1
        while found <= canary_all and not bad(found):
            found += 1
        return found

    def _most_good(self, canary_all: int, stable_bad: int) -> int:
        def good(canary_bad: int) -> bool:
            counts = self._counts(canary_bad, canary_all, stable_bad)
            return is_good(counts, self.settings, self.margins)

        found = min(self._last_good, canary_all)
        while found >= 0 and not good(found):
            found -= 1
        while found < canary_all and good(found + 1):
            found += 1
        return found


def _failures(share: float, generator: random.Random) -> Iterator[float]:
    """Numbers of the requests that are bad, beginning with 1: gaps between them are geometric."""
    at = 0.0
    while True:
        if share >= 1.0:
            at += 1
        elif share <= 0.0:
            at = math.inf
        else:
            at += math.floor(math.log(1.0 - generator.random()) / math.log1p(-share)) + 1
        yield at


class _Path:
    """One measure of one stage."""

    def __init__(self, canary: float, stable: float, generator: random.Random) -> None:
        self._sources = (_failures(canary, generator), _failures(stable, generator))
        self._next = [next(source) for source in self._sources]
        self.bad = [0, 0]

    def go_to(self, canary_all: int, stable_all: int) -> None:
        for which, total in enumerate((canary_all, stable_all)):
            while self._next[which] <= total:
                self.bad[which] += 1
                self._next[which] = next(self._sources[which])


def simulate(
    case: Case,
    settings: Settings,
    generator: random.Random,
    trials: int = 2000,
    boundaries: Boundaries | None = None,
    name: str = FAILURES,
) -> Outcomes:
    """How stages end that are judged with these settings. The generator makes their requests; boundaries may be shared by calls of one share and settings."""
    boundaries = boundaries or Boundaries(settings, case.measures, case.share, name)
    bad, good = [], []
    for _trial in range(trials):
        ended, at = _stage(case, settings, boundaries, generator)
        if ended == BAD:
            bad.append(at)
        elif ended == GOOD:
            good.append(at)
    return Outcomes(trials, tuple(bad), tuple(good), trials - len(bad) - len(good))


def _stage(
    case: Case, settings: Settings, boundaries: Boundaries, generator: random.Random
) -> tuple[str, int]:
    paths = [
        _Path(case.stable + (case.worse if number == 0 else 0.0), case.stable, generator)
        for number in range(case.measures)
    ]
    for canary_all in range(case.step, settings.stage_requests + 1, case.step):
        stable_all = boundaries.stable_all(canary_all)
        verdicts = set()
        for path in paths:
            path.go_to(canary_all, stable_all)
            verdicts.add(boundaries.verdict(path.bad[0], canary_all, path.bad[1]))
        if BAD in verdicts:
            return BAD, canary_all
        if verdicts == {GOOD}:
            return GOOD, canary_all
    return HOLD, settings.stage_requests
