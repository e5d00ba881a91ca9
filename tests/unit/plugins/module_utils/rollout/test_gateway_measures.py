# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters of HAProxy 2.6 and 3.0, recorded by tests/fixtures/rollout/record.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.judge import (
    BAD,
    FAILURES,
    REFUSALS,
    Counts,
    Settings,
    judge,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.measures import (
    Counters,
    MeasureError,
    Reading,
    Window,
    gateway_counts,
    read_stat,
)

RECORDED = Path(__file__).resolve().parents[4] / "fixtures/rollout"
CANARY, STABLE = "canary-1:main", "stable-1:main"
VERSIONS = ("2.6", "3.0")
# Of 20 requests each: how many first attempts at the canary failed, and how many it refused.
KINDS = {
    "answer": (0, 0),
    "503": (20, 0),
    "500": (20, 0),
    "425": (20, 0),
    "400": (0, 20),
    "close": (20, 0),
    "cut": (20, 0),
    "hang": (20, 0),
    "refuse": (20, 0),
    "left": (0, 0),
    "left-within": (0, 0),
    "425-alone": (20, 0),
    "refuse-alone": (20, 0),
}


def reading(version: str, when: str, process: int = 1) -> Reading:
    return read_stat((RECORDED / f"haproxy-{version}-{when}.csv").read_text(), process)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_failed_first_attempt_is_counted_once(version: str, kind: str) -> None:
    window = Window(reading(version, "before"), reading(version, "after"))
    counts = gateway_counts([window], kind, {CANARY})
    failed, refused = KINDS[kind]
    assert (counts[FAILURES].canary_bad, counts[FAILURES].canary_all) == (failed, 20)
    assert (counts[REFUSALS].canary_bad, counts[REFUSALS].canary_all) == (refused, 20)
    assert counts[FAILURES].stable_bad == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_columns_count_one_event_twice_where_the_recordings_say_so(version: str) -> None:
    """Why no sum of columns is taken: each of these has 20 failed requests, and no more."""
    after = reading(version, "after").servers
    sent_again = after[("425", CANARY)]
    assert (sent_again.wretr, sent_again.wredis, sent_again.eresp) == (20, 20, 0)
    refused = after[("refuse", CANARY)]
    assert (refused.wretr, refused.wredis) == (0, 20)
    cut = after[("cut", CANARY)]
    assert (cut.eresp, cut.srv_abrt) == (20, 20)
    assert after[("close", CANARY)].eresp == {"2.6": 20, "3.0": 40}[version]
    assert (after[("left", CANARY)].eresp, after[("left", CANARY)].cli_abrt) == (20, 20)


@pytest.mark.parametrize("version", VERSIONS)
def test_failures_of_several_kinds_in_one_server_are_counted_together(version: str) -> None:
    servers = reading(version, "after").servers
    mixed = Counters()
    for kind in ("answer", "503", "425", "close", "cut", "hang", "refuse", "400"):
        one = servers[(kind, CANARY)]
        mixed = Counters(
            **{name: getattr(mixed, name) + value for name, value in vars(one).items()}
        )
    assert mixed.sessions == 160
    assert mixed.failures == 120


@pytest.mark.parametrize("version", VERSIONS)
def test_clients_that_leave_hide_no_failure_that_has_an_answer(version: str) -> None:
    servers = reading(version, "after").servers
    left, faulty = servers[("left-within", CANARY)], servers[("500", CANARY)]
    both = Counters(**{name: value + getattr(faulty, name) for name, value in vars(left).items()})
    assert (both.sessions, both.failures) == (40, 20)


def test_the_counters_of_several_gateways_are_added() -> None:
    window = Window(reading("2.6", "before"), reading("2.6", "after"))
    other = Window(reading("3.0", "before"), reading("3.0", "after"))
    assert gateway_counts([window, other], "close", {CANARY})[FAILURES] == Counts(40, 40, 0, 0)
    counts = gateway_counts([window, other], "425", {CANARY})[FAILURES]
    assert counts == Counts(40, 40, 0, 40)
    assert judge(counts, Settings()).kind == BAD


def test_a_process_that_began_again_counts_from_zero() -> None:
    now = reading("2.6", "after", process=2)
    assert gateway_counts([Window(reading("2.6", "after", process=1), now)], "500", {CANARY})[
        FAILURES
    ] == Counts(20, 20, 0, 0)
    lower = Counters(sessions=5, heads=5, heads_5xx=2)
    assert lower.since(Counters(sessions=100, heads=100)).heads_5xx == 2


def test_what_was_counted_before_the_stage_does_not_count() -> None:
    now = reading("3.0", "after")
    assert gateway_counts([Window(now, now)], "500", {CANARY})[FAILURES] == Counts(0, 0, 0, 0)


def test_requests_that_hang_are_failures_as_soon_as_patience_ends() -> None:
    name = ("m", CANARY)
    other = ("m", STABLE)
    begin = Reading(1, {name: Counters(), other: Counters()})
    asked = Reading(
        1,
        {
            name: Counters(sessions=8, current=8),
            other: Counters(sessions=150, current=8, heads=142),
        },
    )
    now = Reading(
        1,
        {
            name: Counters(sessions=12, current=12),
            other: Counters(sessions=230, current=8, heads=222),
        },
    )
    assert gateway_counts([Window(begin, now)], "m", {CANARY})[FAILURES].canary_bad == 0
    counts = gateway_counts([Window(begin, now, asked)], "m", {CANARY})[FAILURES]
    assert counts == Counts(8, 12, 0, 230)
    assert judge(counts, Settings()).kind == BAD


def test_long_answers_are_not_taken_for_requests_that_hang() -> None:
    name = ("m", CANARY)
    streams = Counters(sessions=10, current=10, heads=10)
    window = Window(
        Reading(1, {name: Counters()}), Reading(1, {name: streams}), Reading(1, {name: streams})
    )
    assert gateway_counts([window], "m", {CANARY})[FAILURES] == Counts(0, 10, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Permission denied\n",
        "Unknown command: 'show stat'\n",
        "# pxname,svname,stot\nm,s,1\n",
        "# pxname,svname\n\x00",
    ],
)
def test_what_is_no_table_of_counters_is_refused(text: str) -> None:
    with pytest.raises(MeasureError):
        read_stat(text, 1)


def test_a_counter_that_is_no_number_is_refused() -> None:
    text = (RECORDED / "haproxy-2.6-after.csv").read_text()
    with pytest.raises(MeasureError, match="cannot be read"):
        read_stat(text.replace("canary-1:main,0,0,0,1,,20", "canary-1:main,0,0,0,1,,x"), 1)


def test_a_gateway_without_the_backend_or_the_canary_is_no_measure() -> None:
    now = reading("2.6", "after")
    for backend, canary in (("nothing", CANARY), ("500", "canary-2:main")):
        with pytest.raises(MeasureError, match="has no canary-"):
            gateway_counts([Window(now, now)], backend, {canary})


def test_counts_are_possible_ones_whatever_the_columns_say() -> None:
    odd = Counters(sessions=3, current=9, heads=5, heads_5xx=7, wretr=50, eresp=80, srv_abrt=9)
    assert 0 <= odd.failures <= odd.sessions
    assert replace(odd, sessions=0).failures == 0
