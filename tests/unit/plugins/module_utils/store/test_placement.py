# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every release is on three hosts, evenly, and a new host moves as little as possible."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.filter.holders import FilterModule
from ansible_collections.onprem.deepseek.plugins.module_utils.store.placement import (
    REPLICAS,
    holders,
)

names = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=20)
hosts = st.lists(names, min_size=1, max_size=12, unique=True)


@given(hosts, names)
def test_as_many_hosts_as_there_are_and_no_more_than_three(some: list[str], release: str) -> None:
    chosen = holders(release, some)
    assert len(set(chosen)) == len(chosen) == min(len(some), REPLICAS)
    assert set(chosen) <= set(some)


@given(hosts, names, st.randoms())
def test_the_order_in_the_inventory_does_not_matter(
    some: list[str], release: str, random: object
) -> None:
    shuffled = list(some)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert holders(release, shuffled + some[:1]) == holders(release, some)


@given(hosts, names, names)
def test_a_new_host_replaces_one_holder_or_none(some: list[str], release: str, new: str) -> None:
    before, after = holders(release, some), holders(release, [*some, new])
    assert set(after) - set(before) <= {new}
    assert len(set(before) - set(after)) <= 1
    kept = [host for host in after if host != new or new in before]
    assert kept == [host for host in before if host in after]


@given(hosts, names)
def test_losing_a_host_that_holds_nothing_of_it_changes_nothing(
    some: list[str], release: str
) -> None:
    chosen = holders(release, some)
    for other in set(some) - set(chosen):
        assert holders(release, [host for host in some if host != other]) == chosen


@pytest.mark.parametrize("number", [4, 7, 12])
def test_releases_are_spread_evenly(number: int) -> None:
    some = [f"storage-{index}" for index in range(number)]
    releases = 3000
    counts = Counter(
        host for index in range(releases) for host in holders(f"model/{index}.0.0", some)
    )
    expected = releases * REPLICAS / number
    # Six standard deviations of a binomial distribution.
    bound = 6 * (expected * (1 - REPLICAS / number)) ** 0.5
    assert all(abs(counts[host] - expected) < bound for host in some)


def test_the_choice_is_for_ever() -> None:
    """Another choice in a later version would move every release of every site."""
    some = [f"storage-{index}" for index in range(1, 7)]
    chosen = FilterModule().filters()["holders"](some, "tiny-onprem/1.0.0")
    assert chosen == ["storage-5", "storage-6", "storage-3"]
