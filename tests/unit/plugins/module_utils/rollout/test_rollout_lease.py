# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway believes of what it was ordered, and for how long."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.lease import (
    MAX_BYTES,
    Kept,
    Order,
    OrderError,
    accept,
    allowed,
    from_json,
    parse_order,
    to_json,
    trip,
    watch,
)

ORDER = Order("chat", 7, 250, 120)
KEPT = Kept(ORDER, 100.0, "boot-1")
orders = st.builds(
    Order,
    st.sampled_from(["chat", "code-7b"]),
    st.integers(1, 2**63),
    st.integers(0, 500),
    st.integers(1, 3600),
)


@given(st.builds(Kept, orders, st.floats(0, 1e9), st.text(max_size=40), st.text(max_size=40)))
def test_what_is_kept_is_read_again(kept: Kept) -> None:
    assert from_json(to_json(kept)) == kept


@given(orders)
def test_an_order_is_read_as_it_is_written(order: Order) -> None:
    assert parse_order(json.dumps(vars(order)).encode()) == order


@given(st.binary(max_size=100))
def test_what_is_no_order_is_refused(data: bytes) -> None:
    with pytest.raises(OrderError):
        parse_order(data)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"share": 501}, r"\$.share must be a whole number from 0 to 500"),
        ({"share": True}, r"\$.share"),
        ({"share": "5"}, r"\$.share"),
        ({"fencing": 0}, r"\$.fencing"),
        ({"fencing": 2**64}, r"\$.fencing"),
        ({"seconds": 0}, r"\$.seconds"),
        ({"seconds": 3601}, r"\$.seconds"),
        ({"model": "../x"}, r"\$.model"),
        ({"model": None}, r"\$.model"),
        ({"more": 1}, "must have model, fencing, share and seconds"),
    ],
)
def test_an_order_that_cannot_be_is_refused_by_its_path(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(OrderError, match=problem):
        parse_order(json.dumps({**vars(ORDER), **changes}).encode())


def test_an_order_that_is_too_large_or_too_deep_is_refused() -> None:
    for data in (b" " * (MAX_BYTES + 1), b"[" * MAX_BYTES):
        with pytest.raises(OrderError):
            parse_order(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"heard": -1},
        {"heard": float("nan")},
        {"heard": True},
        {"boot": 1},
        {"tripped": None},
        {"order": []},
        {"more": 1},
    ],
)
def test_what_nobody_kept_is_refused(changes: dict[str, Any]) -> None:
    document = {**json.loads(to_json(KEPT)), **changes}
    with pytest.raises(OrderError):
        from_json(json.dumps(document).encode())


def test_only_the_newest_order_is_taken() -> None:
    newer = replace(ORDER, fencing=8, share=500)
    assert accept(KEPT, newer, 101.0, "boot-1").order == newer
    with pytest.raises(OrderError, match="somebody else steers"):
        accept(KEPT, replace(ORDER, fencing=6), 101.0, "boot-1")
    with pytest.raises(OrderError, match="was another"):
        accept(KEPT, replace(ORDER, share=500), 101.0, "boot-1")


def test_a_renewal_keeps_the_share_and_begins_the_lease_again() -> None:
    renewed = accept(KEPT, ORDER, 219.0, "boot-1")
    assert (allowed(renewed), renewed.heard) == (250, 219.0)
    assert allowed(watch(renewed, 339.0, "boot-1")) == 250


def test_a_lease_that_ran_out_takes_the_share_away_until_none_was_ordered() -> None:
    over = watch(KEPT, 220.5, "boot-1")
    assert (allowed(over), over.tripped) == (0, "nothing was heard from the release host for 120 s")
    assert allowed(accept(over, ORDER, 221.0, "boot-1")) == 0
    none = accept(over, replace(ORDER, fencing=8, share=0), 221.0, "boot-1")
    assert none.tripped == ""
    assert allowed(accept(none, replace(ORDER, fencing=9), 221.0, "boot-1")) == 250


@pytest.mark.parametrize("share", [50, 250, 500])
@pytest.mark.parametrize("kept", [trip(KEPT, "failures"), replace(KEPT, heard=0.0)])
def test_a_release_host_that_starts_again_restores_no_share(kept: Kept, share: int) -> None:
    """Kind: a release host that takes over knows nothing of what the gateway found."""
    again = accept(kept, replace(ORDER, fencing=8, share=share), 150.0, "boot-1")
    assert allowed(again) == 0
    assert again.tripped


def test_a_renewal_that_comes_too_late_restores_no_share() -> None:
    assert allowed(accept(KEPT, ORDER, 300.0, "boot-1")) == 0


def test_a_canary_that_was_found_bad_stays_without_a_share_although_it_is_renewed() -> None:
    bad = trip(KEPT, "failures")
    assert allowed(bad) == 0
    assert accept(bad, ORDER, 101.0, "boot-1").tripped == "failures"


def test_after_a_boot_the_release_host_has_a_lease_to_be_heard() -> None:
    booted = watch(KEPT, 3.0, "boot-2")
    assert allowed(booted) == 250
    assert allowed(watch(booted, 124.0, "boot-2")) == 0


def test_a_gateway_that_was_ordered_nothing_gives_no_share() -> None:
    assert allowed(None) == 0


def test_no_share_needs_no_lease() -> None:
    nothing = accept(KEPT, replace(ORDER, fencing=8, share=0), 101.0, "boot-1")
    assert watch(nothing, 9999.0, "boot-1") == nothing
