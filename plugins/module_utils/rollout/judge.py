# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a canary is worse than the stable release, from counts alone: no clock, no file, no host.

Every threshold here has its simulated price in docs/reference/canary_judge.md (``simulation.py``), and its reason in
docs/decisions/0024-canary-judged-by-posterior.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from .posterior import interval, probability_worse

BAD, GOOD, HOLD = "bad", "good", "hold"


@dataclass(frozen=True)
class Counts:
    """What one measure counted of both releases in the same time.

    ``worst_*`` are those canary requests that came from the client with most bad ones, 0 where clients are not told apart, or where
    there is only one.
    """

    canary_bad: int
    canary_all: int
    stable_bad: int
    stable_all: int
    worst_bad: int = 0
    worst_all: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for counts that cannot be."""
        for bad, total in (
            (self.canary_bad, self.canary_all),
            (self.stable_bad, self.stable_all),
            (self.worst_bad, self.worst_all),
            (self.canary_bad - self.worst_bad, self.canary_all - self.worst_all),
        ):
            if not 0 <= bad <= total:
                raise ValueError(f"{bad} bad ones of {total} in {self}")


@dataclass(frozen=True)
class Margins:
    """By how much the canary's share of bad requests may be larger, as a part of 1."""

    tolerated: float  # so much worse, and no more, is no reason to roll back
    unacceptable: float  # promoted is only what is not so much worse, beyond doubt


FAILURES = "failures"
SLOW_FIRST_TOKENS = "slow_first_tokens"
SLOW_TOKENS = "slow_tokens"
BROKEN_GENERATIONS = "broken_generations"
REFUSALS = "refusals"
DEFAULT_MARGINS: Mapping[str, Margins] = {
    FAILURES: Margins(0.0025, 0.015),
    SLOW_FIRST_TOKENS: Margins(0.01, 0.03),
    SLOW_TOKENS: Margins(0.01, 0.03),
    BROKEN_GENERATIONS: Margins(0.0025, 0.015),
    # A client that sends nothing but wrong requests is no fault of the release that it meets; a release that refuses most is faulty.
    REFUSALS: Margins(0.5, 0.6),
}


@dataclass(frozen=True)
class Settings:
    """What is asked before something is decided.

    ``doubt_bad`` is for all measures of a stage together: each gets an equal part. ``patience_seconds`` matters only where requests
    stay away altogether; everything else is counted in requests.
    """

    doubt_bad: float = 0.003
    doubt_good: float = 0.05
    least_failures: int = 3
    least_requests: int = 300
    stage_requests: int = 2000
    patience_seconds: float = 86400.0
    undecided: str = BAD  # or HOLD
    margins: Mapping[str, Margins] = field(default_factory=lambda: dict(DEFAULT_MARGINS))


@dataclass(frozen=True)
class Verdict:
    """What one measure says, with the probabilities and the thresholds that they were compared with."""

    kind: str
    q: float | None  # that the canary is worse by more than is tolerated
    q_unacceptable: float | None  # that it is worse by more than is acceptable
    bad_from: float  # q is bad from here on
    good_to: float  # q_unacceptable is good up to here
    margins: Margins
    counts: Counts | None
    reason: str


@dataclass(frozen=True)
class Stage:
    """How much of a stage has passed: requests to both releases, the share that the canary was to get, and seconds."""

    canary_requests: int
    stable_requests: int
    share_thousandths: int
    seconds: float
    stable_down: int = 0  # stable servers that are down


@dataclass(frozen=True)
class Decision:
    """What all measures say together, and everything that it was decided by.

    ``kind`` is bad where the canary is to be rolled back, good where it may go on, hold where it is too early.
    """

    kind: str
    reason: str
    verdicts: Mapping[str, Verdict]
    stage: Stage
    settings: Settings

    def measures(self) -> dict[str, dict[str, float]]:
        """Counts, probabilities and thresholds of each measure; one that could not be read has no counts."""
        return {
            name: {
                **(asdict(verdict.counts) if verdict.counts else {}),
                **asdict(verdict.margins),
                **({} if verdict.q is None else {"q": verdict.q}),
                **(
                    {}
                    if verdict.q_unacceptable is None
                    else {"q_unacceptable": verdict.q_unacceptable}
                ),
                "bad_from": verdict.bad_from,
                "good_to": verdict.good_to,
            }
            for name, verdict in self.verdicts.items()
        }

    def thresholds(self) -> dict[str, float]:
        """The settings that applied to the stage, and how much of it had passed."""
        settings = asdict(self.settings)
        numbers = {
            name: value for name, value in settings.items() if isinstance(value, (int, float))
        }
        return {**numbers, **{f"stage_{name}": one for name, one in asdict(self.stage).items()}}


def judge(
    counts: Counts | None, settings: Settings, name: str = FAILURES, measures: int = 1
) -> Verdict:
    """What one of several measures says of the canary; ``counts`` is None where it could not be read.

    However often it is asked: a verdict changes only with a request, and the simulation asks after each.
    """
    margins = settings.margins[name]
    bad_from = 1.0 - settings.doubt_bad / measures
    if counts is None or counts.canary_all == 0 or counts.stable_all == 0:
        return Verdict(
            HOLD, None, None, bad_from, settings.doubt_good, margins, counts, _absent(name, counts)
        )
    q = _worse(counts, margins.tolerated)
    q_unacceptable = _worse(counts, margins.unacceptable)
    kind = HOLD
    tolerated = f"more than {_points(margins.tolerated)} worse with a probability of {q:.6f}"
    unacceptable = f"more than {_points(margins.unacceptable)} worse with a probability of {q_unacceptable:.6f}"
    if is_bad(counts, settings, margins, bad_from):
        kind = BAD
        why = f"{tolerated}, where {bad_from:.6f} is enough"
    elif is_good(counts, settings, margins):
        kind = GOOD
        why = f"{unacceptable}, where {settings.doubt_good:.6f} is allowed"
    elif q >= bad_from:
        why = f"{tolerated}, but on fewer than {settings.least_failures} bad ones, or by one client alone"
    elif counts.canary_all < settings.least_requests:
        why = f"fewer canary requests than the {settings.least_requests} that are asked for"
    else:
        why = f"{tolerated}, and {unacceptable}: neither is beyond doubt"
    reason = f"{name}: {_shares(counts)}; {why}"
    return Verdict(kind, q, q_unacceptable, bad_from, settings.doubt_good, margins, counts, reason)


def is_bad(counts: Counts, settings: Settings, margins: Margins, bad_from: float) -> bool:
    """Whether the canary is worse than is tolerated, beyond doubt, and without any one client as well."""

    def beyond_doubt(bad: int, total: int) -> bool:
        rest = Counts(bad, total, counts.stable_bad, counts.stable_all)
        return (
            bad >= settings.least_failures
            and _seems_worse(rest, margins.tolerated)
            and _worse(rest, margins.tolerated) >= bad_from
        )

    return beyond_doubt(counts.canary_bad, counts.canary_all) and (
        counts.worst_all == 0
        or beyond_doubt(counts.canary_bad - counts.worst_bad, counts.canary_all - counts.worst_all)
    )


def is_good(counts: Counts, settings: Settings, margins: Margins) -> bool:
    """Whether the canary has had requests enough, and is not unacceptably worse, beyond doubt."""
    return (
        counts.canary_all >= settings.least_requests
        and not _seems_worse(counts, margins.unacceptable)
        and _worse(counts, margins.unacceptable) <= settings.doubt_good
    )


def _seems_worse(counts: Counts, margin: float) -> bool:
    """The same question of the shares as they are: where it has the other answer, no doubt can be small."""
    if counts.canary_all == 0:
        return False
    return counts.canary_bad / counts.canary_all > counts.stable_bad / counts.stable_all + margin


def decide(
    measures: Mapping[str, Counts | None], stage: Stage, settings: Settings | None = None
) -> Decision:
    """What all measures of a stage say together: one bad one is enough to roll back, all must be good to go on."""
    settings = settings or Settings()
    verdicts = {
        name: judge(counts, settings, name, len(measures)) for name, counts in measures.items()
    }
    kind, reason = _decision(verdicts, stage, settings)
    return Decision(kind, reason, verdicts, stage, settings)


def _decision(verdicts: Mapping[str, Verdict], stage: Stage, settings: Settings) -> tuple[str, str]:
    bad = [verdict.reason for verdict in verdicts.values() if verdict.kind == BAD]
    if bad:
        return BAD, "; ".join(bad)
    held = [verdict.reason for verdict in verdicts.values() if verdict.kind != GOOD]
    if not verdicts:
        held = ["nothing was measured"]
    if stage.stable_down:
        # Beside a stable release in trouble every canary looks well.
        held.append(f"{stage.stable_down} stable servers are down")
    if not held:
        return GOOD, "; ".join(verdict.reason for verdict in verdicts.values())
    end = _end(stage, settings)
    if end and settings.undecided == BAD:
        return BAD, f"undecided: {end}. {'; '.join(held)}"
    return HOLD, "; ".join(held)


def _end(stage: Stage, settings: Settings) -> str:
    """Why a stage may last no longer, or nothing."""
    expected = (stage.canary_requests + stage.stable_requests) * stage.share_thousandths // 1000
    if stage.canary_requests >= settings.stage_requests:
        return f"the canary has had {stage.canary_requests} requests, and a stage has {settings.stage_requests}"
    if expected >= settings.stage_requests:
        return (
            f"the canary has had {stage.canary_requests} requests, where its share of those that came is {expected}, "
            f"and a stage has {settings.stage_requests}"
        )
    if stage.seconds >= settings.patience_seconds:
        return (
            f"the canary has had {stage.canary_requests} requests of {settings.stage_requests} in "
            f"{stage.seconds:.0f} seconds, and {settings.patience_seconds:.0f} are allowed"
        )
    return ""


def _worse(counts: Counts, margin: float) -> float:
    return probability_worse(
        counts.canary_bad, counts.canary_all, counts.stable_bad, counts.stable_all, margin
    )


def _absent(name: str, counts: Counts | None) -> str:
    if counts is None:
        return f"{name}: could not be measured"
    return f"{name}: {counts.canary_all} requests to the canary, {counts.stable_all} to the stable release"


def _shares(counts: Counts) -> str:
    low, high = interval(counts.canary_bad, counts.canary_all)
    return (
        f"{counts.canary_bad} of {counts.canary_all} canary requests "
        f"({counts.canary_bad / counts.canary_all:.2%}, 95 % interval {low:.2%} to {high:.2%}) against "
        f"{counts.stable_bad} of {counts.stable_all} ({counts.stable_bad / counts.stable_all:.2%})"
    )


def _points(margin: float) -> str:
    return f"{margin * 100:g} points"
