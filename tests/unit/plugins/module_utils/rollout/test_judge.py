# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a canary is judged by: probabilities, single cases, and what a decision says."""

from __future__ import annotations

import json
import random
from dataclasses import fields, replace

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.judge import (
    BAD,
    FAILURES,
    GOOD,
    HOLD,
    REFUSALS,
    SLOW_FIRST_TOKENS,
    Counts,
    Settings,
    Stage,
    decide,
    judge,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.posterior import (
    above,
    interval,
    probability_worse,
)

SETTINGS = Settings()
SOUND = Counts(4, 1000, 95, 19000)
UNDECIDED = Counts(16, 1000, 95, 19000)
FAULTY = Counts(60, 1000, 95, 19000)


def stage(requests: int = 1000, **changes: float) -> Stage:
    return replace(Stage(requests, requests * 19, 50, 600.0), **changes)


@pytest.mark.parametrize(
    "counts",
    [
        (5, 100, 10, 2000),
        (0, 300, 0, 300),
        (20, 2000, 380, 38000),
        (3, 3, 0, 2),
        (60, 2000, 20, 2000),
    ],
)
def test_the_probability_is_that_of_drawing_from_both_posteriors(
    counts: tuple[int, int, int, int],
) -> None:
    bad_1, all_1, bad_0, all_0 = counts
    draws = random.Random(7)
    count = 20_000
    larger = sum(
        draws.betavariate(bad_1 + 0.5, all_1 - bad_1 + 0.5)
        > draws.betavariate(bad_0 + 0.5, all_0 - bad_0 + 0.5) + 0.005
        for _draw in range(count)
    )
    # five standard deviations of that many draws
    assert probability_worse(*counts, 0.005) == pytest.approx(larger / count, abs=0.018)


@pytest.mark.parametrize(
    ("x", "a", "b", "known"),
    [
        # closed forms: a uniform share, powers, and the arcsine distribution
        (0.3, 1.0, 1.0, 0.7),
        (0.3, 3.0, 1.0, 1 - 0.3**3),
        (0.3, 1.0, 4.0, 0.7**4),
        (0.25, 0.5, 0.5, 2 / 3),
        (0.0, 2.0, 2.0, 1.0),
        (1.0, 2.0, 2.0, 0.0),
    ],
)
def test_the_distribution_agrees_with_closed_forms(
    x: float, a: float, b: float, known: float
) -> None:
    assert above(x, a, b) == pytest.approx(known, abs=1e-9)


def test_a_probability_of_worse_falls_with_the_margin_and_rises_with_each_failure() -> None:
    margins = [probability_worse(12, 400, 40, 7600, one / 1000) for one in range(0, 60, 5)]
    assert margins == sorted(margins, reverse=True)
    failures = [probability_worse(one, 400, 40, 7600, 0.0025) for one in range(30)]
    assert failures == sorted(failures)


def test_an_interval_holds_its_share_and_reaches_the_end_where_nothing_speaks_against_it() -> None:
    low, high = interval(5, 100)
    assert low == pytest.approx(0.0193, abs=1e-3)
    assert high == pytest.approx(0.1061, abs=1e-3)
    assert interval(0, 100)[0] == 0.0
    assert interval(100, 100)[1] == 1.0
    assert interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("counts", "kind"),
    [
        (SOUND, GOOD),
        (UNDECIDED, HOLD),
        (FAULTY, BAD),
        (None, HOLD),
        (Counts(0, 0, 0, 100), HOLD),
        (Counts(50, 100, 0, 0), HOLD),
        # one failure, or two, are none: a share of one request is no share
        (Counts(1, 1, 0, 100), HOLD),
        (Counts(2, 2, 0, 100), HOLD),
        # gross faults need no least number of requests
        (Counts(3, 3, 0, 57), BAD),
        (Counts(299, 299, 0, 5000), BAD),
        # as many requests without any failure are not enough yet
        (Counts(0, 299, 0, 5000), HOLD),
        (Counts(0, 300, 0, 5000), GOOD),
    ],
)
def test_a_measure_is_good_bad_or_neither(counts: Counts | None, kind: str) -> None:
    assert judge(counts, SETTINGS).kind == kind


@pytest.mark.parametrize(
    "counts",
    [
        # kayenta#426: errors of six minutes 0 1 2 1 0 0 against none, at ten requests a minute to
        # the canary and 190 to the others
        Counts(4, 60, 0, 1140),
        # spinnaker#6278: seven of ten requests a hundred times slower than all others
        Counts(7, 10, 0, 190),
        # kayenta#780, case 1: seven of fifteen values of a spread metric far beyond all others
        Counts(7, 15, 0, 285),
    ],
)
def test_cases_that_a_rank_test_passes_are_found(counts: Counts) -> None:
    assert judge(counts, SETTINGS, measures=4).kind == BAD
    decision = decide({FAILURES: SOUND, SLOW_FIRST_TOKENS: counts}, stage())
    assert decision.kind == BAD


def test_one_client_alone_makes_no_canary_bad() -> None:
    one = Counts(100, 1000, 95, 19000, worst_bad=98, worst_all=100)
    several = replace(one, worst_bad=30, worst_all=100)
    assert judge(one, SETTINGS).kind == HOLD
    assert "one client alone" in judge(one, SETTINGS).reason
    assert judge(several, SETTINGS).kind == BAD


def test_one_client_of_ten_that_is_refused_is_no_fault_of_the_release() -> None:
    assert judge(Counts(100, 1000, 0, 19000), SETTINGS, REFUSALS).kind == GOOD
    assert judge(Counts(30, 30, 5, 570), SETTINGS, REFUSALS).kind == BAD


def test_one_bad_measure_rolls_back_whatever_the_others_say() -> None:
    decision = decide({FAILURES: SOUND, SLOW_FIRST_TOKENS: FAULTY}, stage())
    assert decision.kind == BAD
    assert decision.reason.startswith("slow_first_tokens: 60 of 1000 canary requests (6.00%")


def test_promoted_is_only_what_is_good_by_every_measure() -> None:
    assert decide({FAILURES: SOUND, SLOW_FIRST_TOKENS: SOUND}, stage()).kind == GOOD
    assert decide({FAILURES: SOUND, SLOW_FIRST_TOKENS: None}, stage()).kind == HOLD
    assert decide({}, stage()).kind == HOLD


def test_nothing_is_promoted_while_a_stable_server_is_down_but_a_bad_canary_is_rolled_back() -> (
    None
):
    decision = decide({FAILURES: SOUND}, stage(stable_down=1))
    assert (decision.kind, decision.reason) == (HOLD, "1 stable servers are down")
    assert decide({FAILURES: FAULTY}, stage(stable_down=1)).kind == BAD


@pytest.mark.parametrize(
    ("measures", "seen", "why"),
    [
        ({FAILURES: UNDECIDED}, stage(2000), "a stage has 2000"),
        ({FAILURES: None}, stage(2000), "could not be measured"),
        # the canary is passed over: what comes to the site counts, not how long it takes
        (
            {FAILURES: Counts(0, 0, 0, 40000)},
            Stage(0, 40000, 50, 60.0),
            "its share of those that came is 2000",
        ),
        ({FAILURES: Counts(0, 0, 0, 0)}, Stage(0, 0, 50, 86400.0), "in 86400 seconds"),
    ],
)
def test_what_is_undecided_at_the_end_of_a_stage_is_rolled_back(
    measures: dict[str, Counts | None], seen: Stage, why: str
) -> None:
    decision = decide(measures, seen)
    assert decision.kind == BAD
    assert decision.reason.startswith("undecided: ")
    assert why in decision.reason
    assert decide(measures, seen, Settings(undecided=HOLD)).kind == HOLD


@pytest.mark.parametrize("seen", [stage(1999), Stage(0, 39979, 50, 0.0), Stage(0, 0, 50, 86399.0)])
def test_a_stage_that_is_not_over_is_held(seen: Stage) -> None:
    assert decide({FAILURES: UNDECIDED}, seen).kind == HOLD


def test_a_decision_has_all_numbers_and_thresholds_to_decide_it_again() -> None:
    decision = decide({FAILURES: FAULTY, SLOW_FIRST_TOKENS: SOUND, REFUSALS: None}, stage())
    measures = json.loads(json.dumps(decision.measures()))
    thresholds = json.loads(json.dumps(decision.thresholds()))
    failures = measures["failures"]
    assert (failures["tolerated"], failures["unacceptable"]) == (0.0025, 0.015)
    assert failures["q"] > failures["bad_from"] == 1 - 0.003 / 3
    assert "canary_all" not in measures["refusals"]
    assert thresholds["stage_canary_requests"] == 1000
    names = [one.name for one in fields(Counts)]
    again = decide(
        {
            name: Counts(**{one: numbers[one] for one in names}) if "q" in numbers else None
            for name, numbers in measures.items()
        },
        Stage(**{one.name: thresholds[f"stage_{one.name}"] for one in fields(Stage)}),
        Settings(
            **{one.name: thresholds[one.name] for one in fields(Settings) if one.name in thresholds}
        ),
    )
    assert again == decision


@pytest.mark.parametrize(
    "wrong", [(-1, 5, 0, 5), (6, 5, 0, 5), (0, 5, 6, 5), (3, 5, 0, 5, 4, 5), (3, 5, 0, 5, 1, 6)]
)
def test_counts_that_cannot_be_are_refused(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="bad ones of"):
        Counts(*wrong)
