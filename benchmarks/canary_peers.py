# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two known judges of canaries, written again from their sources, to be compared with ours.

Flagger: pkg/controller/scheduler.go and scheduler_metrics.go, with its documentation's analysis.
Each minute the canary's success rate of the last minute must be 99 % at least, else a check has
failed and the weight stays; no values fail, too. As many failed checks as the threshold roll back
a minute later. Else the weight grows by a step, and at the largest weight it is promoted.

Kayenta: NetflixACAJudge's Mann-Whitney classifier. A metric is high where the lower end of the
confidence interval of the shift (R's wilcox.test, asymptotic, with correction) is above a quarter
of the shift's own estimate; equal series, and series that are all tied, pass.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def failed(requests: int, share: float, generator: random.Random) -> int:
    """How many of so many requests fail."""
    return sum(generator.random() < share for _request in range(requests))


@dataclass(frozen=True)
class Flagger:
    """The analysis of Flagger's documentation: a check each minute, of at least 99 %."""

    threshold: int = 10
    step_weight: int = 5
    most_weight: int = 50
    least_success: float = 0.99
    seconds: int = 60

    def run(
        self, bad: float, per_second: float, generator: random.Random
    ) -> tuple[bool, float | None]:
        """Whether it is promoted, and seconds from the first failed request to the rollback."""
        weight, failures, now = self.step_weight, 0, 0.0
        first: float | None = None
        while True:
            requests = round(per_second * self.seconds * weight / 100)
            wrong = failed(requests, bad, generator)
            if wrong and first is None:
                # failures are spread over the minute: the first of so many comes after its part
                first = now + self.seconds / (wrong + 1)
            now += self.seconds
            if failures >= self.threshold:
                return False, now - first if first is not None else None
            if requests == 0 or 1 - wrong / requests < self.least_success:
                failures += 1
            elif weight >= self.most_weight:
                return True, None
            else:
                weight = min(self.most_weight, weight + self.step_weight)

    def rolls_back_of(self, checks: int, requests: int, bad: float) -> float:
        """Probability that as many of the checks fail as the threshold has."""
        most = math.floor(requests * (1 - self.least_success) + 1e-9)
        passes = sum(
            math.comb(requests, wrong) * bad**wrong * (1 - bad) ** (requests - wrong)
            for wrong in range(most + 1)
        )
        return sum(
            math.comb(checks, wrong) * (1 - passes) ** wrong * passes ** (checks - wrong)
            for wrong in range(self.threshold, checks + 1)
        )


def kayenta_says_high(
    control: Sequence[float],
    experiment: Sequence[float],
    tolerance: float = 0.25,
    confidence: float = 0.98,
) -> bool:
    """Whether Kayenta's classifier finds the experiment's metric to be high."""
    if list(control) == list(experiment) or len({*control, *experiment}) == 1:
        return False
    quantile = statistics.NormalDist().inv_cdf((1 - confidence) / 2)
    lower = _root(control, experiment, -quantile)
    estimate = _root(control, experiment, 0.0)
    return lower > tolerance * abs(estimate)


def _root(y: Sequence[float], x: Sequence[float], quantile: float) -> float:
    """Shift at which the rank statistic is this quantile; it falls as the shift grows."""
    low, high = min(x) - max(y), max(x) - min(y)

    def difference(shift: float) -> float:
        return _statistic(y, x, shift) - quantile

    if difference(low) <= 0:
        return low
    if difference(high) >= 0:
        return high
    return _bisected(difference, low, high)


def _bisected(function: Callable[[float], float], low: float, high: float) -> float:
    while high - low > 1e-4:
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _statistic(y: Sequence[float], x: Sequence[float], shift: float) -> float:
    values = [one - shift for one in x] + list(y)
    ordered = sorted(values)
    counts = Counter(values)
    ranks = {}
    at = 0
    for value in dict.fromkeys(ordered):
        ranks[value] = at + (counts[value] + 1) / 2
        at += counts[value]
    n, m = len(x), len(y)
    z = sum(ranks[value] for value in values[:n]) - n * (n + 1) / 2 - n * m / 2
    ties = sum(count**3 - count for count in counts.values()) / ((n + m) * (n + m - 1))
    sigma = math.sqrt(n * m / 12 * (n + m + 1 - ties))
    return (z - math.copysign(0.5, z) * (z != 0)) / sigma if sigma else 0.0
