# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who measures the network to whom, and when."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.filter.network_pairs import FilterModule
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import role_exports
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.pairs import pairs

# who asks whom, over which zone
MEASURED = {
    ("gateway", "inference", "inference"),
    ("inference", "storage", "storage"),
    ("release", "storage", "storage"),
    ("storage", "storage", "storage"),
}
GROUPS = {
    "gateway": ["g"],
    "inference": ["i", "j"],
    "storage": ["s", "t", "u"],
    "release": ["i"],
}


def test_what_is_measured_is_what_roles_export() -> None:
    assert set(role_exports.measured()) == MEASURED


def test_pairs_are_those_of_the_data_flow() -> None:
    found = {(pair.client, pair.server, pair.zone) for pair in pairs(GROUPS)}
    requests = {("g", "i", "inference"), ("g", "j", "inference")}
    models = {(asks, store, "storage") for asks in "ij" for store in "stu"}
    copies = {frozenset(pair) for pair in ("st", "su", "tu")}
    assert requests | models <= found
    between = found - requests - models
    assert {frozenset(pair[:2]) for pair in between} == copies
    assert len(between) == 3


def test_one_box_measures_nothing() -> None:
    assert pairs({group: ["poc"] for group in GROUPS}) == []
    assert pairs({}) == []


names = st.lists(st.sampled_from([f"host-{number}" for number in range(12)]), unique=True)


@given(groups=st.dictionaries(st.sampled_from(sorted(GROUPS)), names))
def test_no_host_has_two_transfers_in_one_turn(groups: dict[str, list[str]]) -> None:
    found = pairs(groups)
    taken = Counter((pair.turn, host) for pair in found for host in (pair.client, pair.server))
    assert not taken or max(taken.values()) == 1
    # greedy colouring takes less than twice the turns that the busiest host needs
    peers = Counter(host for pair in found for host in (pair.client, pair.server))
    assert all(pair.turn <= 2 * max(peers.values()) - 2 for pair in found)


@given(groups=st.dictionaries(st.sampled_from(sorted(GROUPS)), names))
def test_each_pair_comes_once(groups: dict[str, list[str]]) -> None:
    found = [(frozenset((pair.client, pair.server)), pair.zone) for pair in pairs(groups)]
    assert len(set(found)) == len(found)
    wanted = {
        (frozenset((asks, answers)), zone)
        for clients, servers, zone in MEASURED
        for asks in groups.get(clients, ())
        for answers in groups.get(servers, ())
        if asks != answers
    }
    assert set(found) == wanted


def test_a_large_site_is_measured_in_few_turns() -> None:
    many = {**GROUPS, "inference": [f"i{number}" for number in range(24)], "release": ["i0"]}
    turns = max(pair.turn for pair in pairs(many)) + 1
    assert 26 <= turns <= 30  # a storage host has 24 inference hosts and two others


def test_targets_are_what_the_module_takes() -> None:
    nics = {
        "g": {"inference": {"address": "10.0.3.1", "mtu": 9000}},
        "i": {"inference": {"address": "10.0.3.2", "mtu": 1500}, "storage": None},
    }
    assert FilterModule().filters()["network_pairs"](nics, GROUPS) == [
        {
            "client": "g",
            "turn": 0,
            "target": {
                "name": "i",
                "zone": "inference",
                "address": "10.0.3.2",
                "source": "10.0.3.1",
                "mtu": 9000,
            },
        }
    ]
