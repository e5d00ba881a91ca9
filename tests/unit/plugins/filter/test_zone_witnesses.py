# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.filter.zone_witnesses import FilterModule

witnesses = FilterModule().filters()["zone_witnesses"]


def test_the_next_ones_look() -> None:
    assert witnesses(["a", "b", "c", "d"], "c", "2") == ["d", "a"]
    assert witnesses(["a"], "a", 2) == []


@given(size=st.integers(1, 9), count=st.integers(0, 9))
def test_every_host_looks_at_as_many(size: int, count: int) -> None:
    hosts = [str(number) for number in range(size)]
    looks = [one for host in hosts for one in witnesses(hosts, host, count)]
    for host in hosts:
        found = witnesses(hosts, host, count)
        assert host not in found
        assert len(set(found)) == len(found) == min(count, size - 1)
        assert looks.count(host) == min(count, size - 1)
