# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a site may say of its minimums, and what holds for which host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.requirements import (
    DEFAULTS,
    for_host,
    merged,
    problems,
)

ROOT = Path(__file__).resolve().parents[5]


def test_without_a_word_the_recommended_minimum_holds() -> None:
    least = merged(None)
    assert least == DEFAULTS
    assert for_host(least, "memory_gb", ["inference"]) == 512
    assert (least["nic_mbps"], least["rtt_ms"]) == (10000, 1)


def test_the_example_has_the_defaults() -> None:
    example = yaml.safe_load(
        (ROOT / "inventories/production.example/group_vars/all.yml").read_text()
    )
    assert example["deepseek_minimums"] == DEFAULTS


def test_each_key_replaces_one_default() -> None:
    least = merged({"cpus": 8, "disk_gb": {"storage": 5}, "mtu": None})
    assert least == {**DEFAULTS, "cpus": 8, "disk_gb": {"storage": 5}, "mtu": None}
    assert for_host(least, "cpus", ["gateway"]) == 8
    assert for_host(least, "disk_gb", ["inference"]) is None
    assert for_host(least, "mtu", ["gateway"]) is None


def test_a_host_of_several_groups_needs_the_highest() -> None:
    assert for_host(DEFAULTS, "cpus", ["gateway", "inference", "release"]) == 16
    assert for_host(DEFAULTS, "cpus", []) is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("cpu", 4, "Did you mean cpus"),
        ("x" * 9, 4, "There are cpus, memory_gb"),
        (4, 4, "There are cpus"),
        ("cpus", -1, "a number for each group, or null"),
        ("cpus", {"gateways": 1}, "The groups are gateway"),
        ("cpus", {"gateway": "4"}, "a number for each group"),
        ("rtt_ms", {"gateway": 4}, "It must be a number that is not negative, or null"),
        ("rtt_ms", True, "It must be a number"),
        ("rtt_ms", float("nan"), "It must be a number"),
        ("clock_synchronised", False, "It must be true, or null"),
        ("gpus", None, "ansible-doc"),
        ("gpus", {"number": 8}, "ansible-doc"),
    ],
)
def test_what_cannot_be_a_minimum(name: Any, value: Any, says: str) -> None:
    ((where, _unused, remedy),) = problems({name: value})
    assert where == str(name)
    assert says in remedy
    assert merged({name: value}) == DEFAULTS


def test_what_is_right_has_no_problem() -> None:
    right = {"cpus": {"gateway": None, "storage": 2.5}, "gpus": {"count": 8}, "rtt_ms": None}
    assert list(problems({**DEFAULTS, **right})) == []


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@given(name=st.sampled_from(sorted(DEFAULTS)) | st.text(), value=anything)
def test_whatever_is_written_has_a_problem_or_is_in_force(name: str, value: Any) -> None:
    found = list(problems({name: value}))
    assert all(what and remedy for _unused, what, remedy in found)
    least = merged({name: value})
    assert least.keys() == DEFAULTS.keys()
    for number in ("cpus", "memory_gb", "disk_gb", "disk_read_mb_s"):
        for_host(least, number, ["gateway", "inference"])
    if not found:
        assert least[name] == value


@given(value=anything)
def test_whatever_stands_for_all_of_them(value: Any) -> None:
    assert merged(value).keys() == DEFAULTS.keys()
