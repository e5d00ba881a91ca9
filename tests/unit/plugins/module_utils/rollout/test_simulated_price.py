# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated price of the judge's thresholds: 2,000 seeded stages of each case."""

from __future__ import annotations

from random import Random

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.judge import (
    FAILURES,
    Counts,
    Settings,
    judge,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.simulation import (
    Boundaries,
    Case,
    simulate,
)

SETTINGS = Settings()
ERRORS = (0.002, 0.005, 0.01)


@pytest.fixture(scope="module")
def boundaries() -> dict[int, Boundaries]:
    """Of one measure, and of four: what was judged of one case is known for the next."""
    return {count: Boundaries(SETTINGS, count, 0.05, FAILURES) for count in (1, 4)}


@pytest.mark.parametrize("measures", [1, 4])
@pytest.mark.parametrize("error", ERRORS)
def test_equal_releases_are_rolled_back_in_at_most_three_of_two_hundred_stages(
    boundaries: dict[int, Boundaries], measures: int, error: float
) -> None:
    case = Case(error, 0.0, measures=measures)
    assert (
        simulate(case, SETTINGS, Random(18), boundaries=boundaries[measures]).rolled_back() <= 0.015
    )


@pytest.mark.parametrize("error", ERRORS)
def test_two_and_a_half_points_are_found(boundaries: dict[int, Boundaries], error: float) -> None:
    one = simulate(Case(error, 0.025), SETTINGS, Random(18), boundaries=boundaries[1])
    four = simulate(Case(error, 0.025, measures=4), SETTINGS, Random(18), boundaries=boundaries[4])
    assert one.bad_within(1500) >= 0.95
    assert four.bad_within(2000) >= 0.90


def test_a_canary_that_fails_always_is_found_by_its_third_request() -> None:
    found = simulate(Case(0.005, 0.995, measures=4, step=1), SETTINGS, Random(18), trials=50)
    assert set(found.bad) <= {3, 4}
    assert len(found.bad) == 50


def test_a_simulation_judges_as_the_judge_does(boundaries: dict[int, Boundaries]) -> None:
    for canary_all, stable_bad in ((60, 3), (300, 20), (1000, 190)):
        for canary_bad in range(0, 40, 3):
            stable_all = boundaries[1].stable_all(canary_all)
            counts = Counts(canary_bad, canary_all, stable_bad, stable_all)
            said = boundaries[1].verdict(canary_bad, canary_all, stable_bad)
            assert said == judge(counts, SETTINGS).kind


def test_a_seed_gives_the_same_stages_again() -> None:
    case = Case(0.005, 0.05)
    assert simulate(case, SETTINGS, Random(18), 20) == simulate(case, SETTINGS, Random(18), 20)
    assert simulate(case, SETTINGS, Random(18), 20) != simulate(case, SETTINGS, Random(19), 20)
