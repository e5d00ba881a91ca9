# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers' metrics, as the service writes them (tests/fixtures/rollout/worker.metrics)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.judge import (
    BROKEN_GENERATIONS,
    HOLD,
    SLOW_FIRST_TOKENS,
    SLOW_TOKENS,
    Counts,
    Settings,
    judge,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.measures import MeasureError
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.worker_measures import (
    GENERATIONS,
    TPOT,
    TTFT,
    Generations,
    Objectives,
    Reading,
    capped,
    read_metrics,
    worker_counts,
)

ROOT = Path(__file__).resolve().parents[5]
TEXT = (ROOT / "tests/fixtures/rollout/worker.metrics").read_text()
OBJECTIVES = Objectives(2.5, 0.1)
NOTHING = Reading(0, 0, 0, 0, {})


def test_what_is_slower_than_an_objective_is_counted() -> None:
    read = read_metrics(TEXT, OBJECTIVES)
    assert (read.slow_first, read.first, read.slow_tokens, read.tokens) == (7, 40, 4, 40)
    counts = worker_counts([read], [NOTHING])
    assert counts[SLOW_FIRST_TOKENS] == Counts(7, 40, 0, 0)
    assert counts[SLOW_TOKENS] == Counts(4, 40, 0, 0)


def test_generations_are_counted_by_client_whatever_its_name_holds() -> None:
    read = read_metrics(TEXT, OBJECTIVES)
    assert read.clients == {
        "key-1": Generations(1, 26),
        "key-2": Generations(0, 8),
        'cn "x" \\ y': Generations(6, 6),
    }


@pytest.mark.parametrize("objective", [2.0, 3.0, float("nan")])
def test_an_objective_between_two_buckets_is_refused(objective: float) -> None:
    with pytest.raises(MeasureError, match="no bucket that ends at"):
        read_metrics(TEXT, Objectives(objective, 0.1))


@pytest.mark.parametrize(
    "text", ["", "<html>", "a b c d", 'deepseek_x{a="b" 1', f"{TTFT}_bucket x"]
)
def test_what_are_no_metrics_is_refused_rather_than_taken_for_nothing(text: str) -> None:
    with pytest.raises(MeasureError):
        read_metrics(text, OBJECTIVES)


def test_what_a_worker_counted_before_the_stage_does_not_count_unless_it_began_again() -> None:
    before = Reading(2, 30, 1, 30, {"a": Generations(1, 20)})
    now = Reading(5, 50, 1, 50, {"a": Generations(4, 30), "b": Generations(0, 10)})
    assert now.since(before) == Reading(
        3, 20, 0, 20, {"a": Generations(3, 10), "b": Generations(0, 10)}
    )
    assert before.since(now) == before


def test_a_client_that_loops_counts_for_its_part_alone() -> None:
    clients = {f"c{number}": Generations(0, 10) for number in range(39)}
    clients["loop"] = Generations(3000, 6000)
    counted = capped(clients, 0.05)
    assert max(one.all for one in counted) == 320
    assert sum(one.bad for one in counted) == 160
    # a site with two clients has them both
    assert capped({"a": Generations(1, 10), "b": Generations(0, 10)}, 0.05) == [
        Generations(1, 10),
        Generations(0, 10),
    ]
    assert capped({}, 0.05) == []


def test_one_client_of_ten_whose_generations_all_break_is_no_reason_to_roll_back() -> None:
    clients = {f"c{number}": Generations(0, 40) for number in range(9)}
    canary = Reading(0, 0, 0, 0, {**clients, "wrong": Generations(40, 40)})
    stable = Reading(0, 0, 0, 0, {f"c{number}": Generations(2, 700) for number in range(9)})
    counts = worker_counts([canary], [stable])[BROKEN_GENERATIONS]
    assert (counts.worst_bad, counts.worst_all) == (40, 40)
    assert judge(counts, Settings(), BROKEN_GENERATIONS).kind == HOLD


def test_the_names_are_those_of_the_reference() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert rows[TTFT] == rows[TPOT] == "histogram"
    assert rows[GENERATIONS] == "counter"
