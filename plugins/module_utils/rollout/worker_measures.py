# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What workers counted of each release: slow first tokens, slow tokens and broken generations, from their metrics.

Names are those of docs/reference/metrics.md; the format is Prometheus' text format 0.0.4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .judge import BROKEN_GENERATIONS, SLOW_FIRST_TOKENS, SLOW_TOKENS, Counts
from .measures import MeasureError

TTFT = "deepseek_time_to_first_token_seconds"
TPOT = "deepseek_time_per_output_token_seconds"
GENERATIONS = "deepseek_generations_total"
MOST_BYTES = 16 * 1024 * 1024
# Of all canary requests, what those of one client count for at most.
CLIENT_SHARE = 0.05

_SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? +(\S+)')
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


@dataclass(frozen=True)
class Objectives:
    """Seconds within which a first token, and each further one, are to come. Each must be an edge of its histogram's buckets."""

    first_token_seconds: float
    token_seconds: float


@dataclass(frozen=True)
class Generations:
    """Generations of one client: those that ended in an error, and all."""

    bad: int = 0
    all: int = 0


@dataclass(frozen=True)
class Reading:
    """Counters of one worker: at one time, or between two."""

    slow_first: int
    first: int
    slow_tokens: int
    tokens: int
    clients: Mapping[str, Generations]

    def since(self, earlier: Reading | None) -> Reading:
        """What was counted after an earlier reading; one lower counter means that all began again at zero."""
        if earlier is None or self._began_again(earlier):
            return self
        before = earlier.clients
        return Reading(
            max(0, self.slow_first - earlier.slow_first),
            self.first - earlier.first,
            max(0, self.slow_tokens - earlier.slow_tokens),
            self.tokens - earlier.tokens,
            {
                name: Generations(
                    max(0, one.bad - before.get(name, Generations()).bad),
                    one.all - before.get(name, Generations()).all,
                )
                for name, one in self.clients.items()
            },
        )

    def plus(self, other: Reading) -> Reading:
        """Both together."""
        none = Generations()
        names = self.clients.keys() | other.clients.keys()
        pairs = {
            name: (self.clients.get(name, none), other.clients.get(name, none)) for name in names
        }
        return Reading(
            self.slow_first + other.slow_first,
            self.first + other.first,
            self.slow_tokens + other.slow_tokens,
            self.tokens + other.tokens,
            {
                name: Generations(one.bad + two.bad, one.all + two.all)
                for name, (one, two) in pairs.items()
            },
        )

    @property
    def extent(self) -> int:
        """How much was counted: of two readings of one worker the later one has more."""
        return self.first + self.tokens + sum(one.all for one in self.clients.values())

    def _began_again(self, earlier: Reading) -> bool:
        return (
            self.first < earlier.first
            or self.tokens < earlier.tokens
            or any(
                self.clients.get(name, Generations()).all < one.all
                for name, one in earlier.clients.items()
            )
        )


def read_metrics(text: str, objectives: Objectives) -> Reading:
    """The metrics of a worker. Raises MeasureError where they are none, or a histogram has no bucket with an objective as its edge."""
    if len(text) > MOST_BYTES:
        raise MeasureError(f"the metrics are larger than {MOST_BYTES} bytes")
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        matched = _SAMPLE.match(line)
        if matched is None:
            raise MeasureError(f"this is no line of metrics: {line[:80]!r}")
        labels = {
            name: re.sub(r'\\[\\"n]', lambda one: _ESCAPED[one[0]], value)
            for name, value in _LABEL.findall(matched[2] or "")
        }
        samples.setdefault(matched[1], []).append((labels, _number(matched[3], line)))
    slow_first, first = _beyond(samples, TTFT, objectives.first_token_seconds)
    slow_tokens, tokens = _beyond(samples, TPOT, objectives.token_seconds)
    clients: dict[str, Generations] = {}
    for labels, value in samples.get(GENERATIONS, []):
        known = clients.get(labels.get("key", ""), Generations())
        bad = int(value) if labels.get("reason") == "error" else 0
        clients[labels.get("key", "")] = Generations(known.bad + bad, known.all + int(value))
    return Reading(slow_first, first, slow_tokens, tokens, clients)


def _number(text: str, line: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise MeasureError(f"this is no line of metrics: {line[:80]!r}") from error


def _beyond(
    samples: Mapping[str, list[tuple[dict[str, str], float]]], name: str, objective: float
) -> tuple[int, int]:
    """How many of a histogram's values are above the objective, and how many there are."""
    buckets = [
        (float(labels.get("le", "nan")), value)
        for labels, value in samples.get(f"{name}_bucket", [])
    ]
    within = [value for edge, value in buckets if math.isclose(edge, objective)]
    whole = [value for edge, value in buckets if math.isinf(edge)]
    if not within or not whole:
        edges = ", ".join(f"{edge:g}" for edge, _value in buckets) or "it has none"
        raise MeasureError(f"{name} has no bucket that ends at {objective:g} seconds: {edges}")
    if not 0 <= within[0] <= whole[0] < math.inf:
        raise MeasureError(f"{name} has {within[0]:g} values of {whole[0]:g}")
    return int(whole[0] - within[0]), int(whole[0])


def worker_counts(
    canary: Iterable[Reading], stable: Iterable[Reading], client_share: float = CLIENT_SHARE
) -> dict[str, Counts]:
    """Counts of both releases from what each of their workers counted in a stage (`Reading.since` its beginning)."""
    canary, stable = list(canary), list(stable)
    clients: dict[str, Generations] = {}
    for reading in canary:
        for name, one in reading.clients.items():
            known = clients.get(name, Generations())
            clients[name] = Generations(known.bad + one.bad, known.all + one.all)
    counted = capped(clients, client_share)
    worst = max(counted, key=lambda one: one.bad, default=Generations())
    if len(counted) < 2 or worst.bad == 0:
        worst = Generations()
    return {
        SLOW_FIRST_TOKENS: Counts(
            sum(one.slow_first for one in canary),
            sum(one.first for one in canary),
            sum(one.slow_first for one in stable),
            sum(one.first for one in stable),
        ),
        SLOW_TOKENS: Counts(
            sum(one.slow_tokens for one in canary),
            sum(one.tokens for one in canary),
            sum(one.slow_tokens for one in stable),
            sum(one.tokens for one in stable),
        ),
        BROKEN_GENERATIONS: Counts(
            sum(one.bad for one in counted),
            sum(one.all for one in counted),
            sum(each.bad for one in stable for each in one.clients.values()),
            sum(each.all for one in stable for each in one.clients.values()),
            worst.bad,
            worst.all,
        ),
    }


def capped(clients: Mapping[str, Generations], share: float) -> list[Generations]:
    """Each client's generations, scaled so that none counts for more than this part of all, or than an equal one where few are there."""
    asking = [one for one in clients.values() if one.all > 0]
    if not asking:
        return []
    most = math.ceil(max(share, 1 / len(asking)) * sum(one.all for one in asking))
    return [
        one if one.all <= most else Generations(round(one.bad * most / one.all), most)
        for one in asking
    ]
