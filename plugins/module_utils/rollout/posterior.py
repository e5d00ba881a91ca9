# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How sure two counts make it that one share is larger than another: beta posteriors, without numpy, the same on every host."""

from __future__ import annotations

import math
from functools import lru_cache

# Jeffreys' prior, Beta(1/2, 1/2): its intervals cover shares near zero as often as they say (Brown, Cai, DasGupta, 2001).
PRIOR = 0.5
# The posterior of a share p has, as a function of asin(sqrt(p)), a standard deviation of about 1 / (2 sqrt(n)).
DEVIATIONS = 5.5
# A trapezoid's step in deviations of the narrower posterior: its error is of the order exp(-2 (pi / step)^2).
STEP = 1.0
MOST_STEPS = 4000
FRACTION_TERMS = 10_000
PRECISION = 1e-10
TINY = 1e-300


def _fraction(a: float, b: float, x: float) -> float:
    """Continued fraction of the incomplete beta function (DLMF 8.17.22), by the modified method of Lentz."""
    numerator = 1.0
    denominator = 1.0 / _apart_from_zero(1.0 - (a + b) * x / (a + 1.0))
    value = denominator
    for m in range(1, FRACTION_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        change = 1.0
        for term in (even, odd):
            denominator = 1.0 / _apart_from_zero(1.0 + term * denominator)
            numerator = _apart_from_zero(1.0 + term / numerator)
            change = denominator * numerator
            value *= change
        if abs(change - 1.0) < PRECISION:
            break
    return value


def _apart_from_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY


def above(x: float, a: float, b: float) -> float:
    """Probability that a share with the posterior Beta(a, b) is larger than x."""
    if x <= 0.0:
        return 1.0
    if x >= 1.0:
        return 0.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1.0) / (a + b + 2.0):
        return 1.0 - front * _fraction(a, b, x) / a
    return front * _fraction(b, a, 1.0 - x) / b


@lru_cache(maxsize=100_000)
def probability_worse(
    canary_bad: int, canary_all: int, stable_bad: int, stable_all: int, margin: float
) -> float:
    """Probability that the canary's share is larger than the stable share plus a margin.

    Both posteriors begin at Jeffreys' prior. The integral over the stable share goes along asin(sqrt(share)), where that prior is flat
    and a trapezoid of few steps is exact to about seven digits, at a share of zero, too.
    """
    a, b = canary_bad + PRIOR, canary_all - canary_bad + PRIOR
    width = 0.5 / math.sqrt(max(stable_all, 1))
    middle = math.asin(math.sqrt(stable_bad / max(stable_all, 1)))
    low = max(0.0, middle - DEVIATIONS * width)
    high = min(math.pi / 2, middle + DEVIATIONS * width)
    step = STEP * min(width, 0.5 / math.sqrt(max(canary_all, 1)))
    steps = min(MOST_STEPS, math.ceil((high - low) / step))
    top = _log_density(middle, stable_bad, stable_all)
    weighed = whole = 0.0
    for i in range(steps + 1):
        angle = low + (high - low) * i / steps
        weight = math.exp(_log_density(angle, stable_bad, stable_all) - top)
        if i in (0, steps):
            weight /= 2
        if weight < 1e-12:
            continue
        weighed += weight * above(math.sin(angle) ** 2 + margin, a, b)
        whole += weight
    return min(1.0, max(0.0, weighed / whole))


def _log_density(angle: float, bad: int, total: int) -> float:
    sine, cosine = math.sin(angle), math.cos(angle)
    low = 2 * bad * math.log(max(sine, TINY)) if bad else 0.0
    return low + (2 * (total - bad) * math.log(max(cosine, TINY)) if total > bad else 0.0)


def interval(bad: int, total: int, outside: float = 0.05) -> tuple[float, float]:
    """Equal-tailed interval of a share at Jeffreys' prior; it reaches 0 without failures, and 1 without successes."""
    if total == 0:
        return 0.0, 1.0
    a, b = bad + PRIOR, total - bad + PRIOR
    low = 0.0 if bad == 0 else _quantile(outside / 2, a, b)
    return low, 1.0 if bad == total else _quantile(1 - outside / 2, a, b)


def _quantile(below: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _halving in range(60):
        middle = (low + high) / 2
        if 1.0 - above(middle, a, b) < below:
            low = middle
        else:
            high = middle
    return (low + high) / 2
