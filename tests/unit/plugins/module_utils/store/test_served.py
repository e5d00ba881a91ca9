# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of what a host has served."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.filter.served_releases import (
    FilterModule as Served,
)
from ansible_collections.onprem.deepseek.plugins.filter.versions_in_use import FilterModule as InUse

served = Served().filters()["served_releases"]
in_use = InUse().filters()["versions_in_use"]


def record(*releases: Any) -> str:
    return base64.b64encode(json.dumps({"releases": releases}).encode()).decode()


def test_what_is_served_now_is_the_last() -> None:
    assert served("", ["m/1"]) == ["m/1"]
    assert served(record("m/1", "m/2"), ["m/1"]) == ["m/2", "m/1"]
    assert served(record("m/1"), ["m/1"]) == ["m/1"]


def test_what_is_served_together_goes_together() -> None:
    both = served(record("m/1"), ["m/2", "n/1"])
    assert both == ["m/1", ["m/2", "n/1"]]
    assert served(record(*both), ["m/2", "n/1"]) == both, "again changes nothing"
    assert served(record(*both), ["m/2"]) == ["m/1", ["m/2", "n/1"], "m/2"]


def test_a_model_that_is_served_no_more_is_in_use_until_the_next_change() -> None:
    first = record("n/0", ["m/1", "n/1"], "m/2")
    assert in_use([first], "n", []) == ["1"]
    assert in_use([first], "m", ["3"]) == ["3", "1", "2"]
    assert in_use([record(["m/1", "n/1"], "m/2", "m/3")], "n", []) == []


def test_the_last_ten_are_kept() -> None:
    found = served(record(*(f"m/{number}" for number in range(12))), ["m/12"])
    assert found == [f"m/{number}" for number in range(3, 13)]


def test_the_active_version_and_the_last_two_of_each_host_are_in_use() -> None:
    records = [record("m/1", "m/2", "m/3"), record("m/2", "other/9"), ""]
    assert in_use(records, "m", ["4"]) == ["4", "2", "3"]
    assert in_use([], "m", ["4"]) == ["4"]
    # the name of another model may begin in the same way
    assert in_use([record("m.5/1", "mm/2")], "m", ["4"]) == ["4"]


@pytest.mark.parametrize(
    "content",
    [
        "!",
        base64.b64encode(b"\xff").decode(),
        base64.b64encode(b"[]").decode(),
        base64.b64encode(b'{"releases": "m/1"}').decode(),
        record(1),
        record(["m/1", 2]),
    ],
)
def test_a_record_that_is_none_is_an_error_with_a_remedy(content: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"served\.json.*Correct or remove the file"):
        served(content, ["m/1"])
    with pytest.raises(AnsibleFilterError, match=r"served\.json.*Correct or remove the file"):
        in_use([content], "m", ["1"])
