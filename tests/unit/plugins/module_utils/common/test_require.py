# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.common.require import (
    EvaluationError,
    RequirementError,
    judge,
    read,
)


class Values:
    """Stands in for Ansible: conditions and texts are names of what they are."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.asked: list[Any] = []

    def fill(self, template: Any, more: Mapping[str, Any]) -> Any:
        self.asked.append(template)
        known = {**self.values, **more}
        if template not in known:
            raise EvaluationError(f"'{template}' is undefined")
        return known[template]

    def holds(self, condition: Any, more: Mapping[str, Any]) -> bool:
        return condition if isinstance(condition, bool) else bool(self.fill(condition, more))


def told(described: list[dict[str, Any]], **values: Any) -> list[str]:
    return [str(one) for one in judge(read(described), "node-1", Values(**values))]


def test_everything_that_is_not_met_is_told_at_once() -> None:
    requirements = [
        {"that": "no", "says": "text", "remedy": "hint", "where": "place"},
        {"that": "yes", "says": "never", "remedy": "never"},
        {"that": ["yes", "no"], "says": "other", "remedy": "hint"},
    ]
    values = {"text": "it is odd", "hint": "Set it", "place": "x", "other": "it is 3."}
    assert told(requirements, no=False, yes=True, **values) == [
        "node-1, x: it is odd. Set it.",
        "node-1: it is 3. Set it.",
    ]


def test_a_text_is_filled_in_only_where_it_is_told() -> None:
    values = Values(yes=True)
    assert judge(read([{"that": "yes", "says": "text", "remedy": "hint"}]), "a", values) == []
    assert values.asked == ["yes"]


def test_what_is_not_defined_is_told_and_keeps_nothing_from_being_judged() -> None:
    requirements = [
        {"that": "nowhere", "says": "text", "remedy": "hint"},
        {"that": "no", "says": "nothing", "remedy": "nothing"},
        {"that": "no", "when": "neither", "says": "text"},
        {"that": "no", "loop": "none", "says": "text"},
        {"that": "no"},
    ]
    assert told(requirements, no=False, text="it is odd", hint="Set it") == [
        "node-1: 'nowhere' is undefined. Set it.",
        "node-1: 'nothing' is undefined.",
        "node-1: 'neither' is undefined.",
        "node-1: 'none' is undefined.",
        "node-1: no is not so.",
    ]


def test_each_item_of_a_loop_must_meet_the_requirement() -> None:
    one = {"loop": "all", "that": False, "says": "item", "covered_by": "cpus"}
    found = judge(read([one]), "node-1", Values(all=["a", "b", "a"]))
    assert [result.as_result() for result in found] == [
        {"where": "node-1", "what": what, "remedy": "", "covered_by": ["cpus"]} for what in "ab"
    ]
    assert told([one], all="ab") == ["node-1: the loop is no list but 'ab'."]


def test_a_requirement_can_be_left_out_by_the_first_condition_that_does_not_hold() -> None:
    assert told([{"that": False, "when": ["no", "nowhere"]}], no=False) == []


@pytest.mark.parametrize(
    ("described", "says"),
    [
        (None, "requirements must be a list, not NoneType"),
        (["x"], "requirement 1 must be a mapping"),
        ([{"that": True}, {"that": ""}], "requirement 2 has no condition: that"),
        ([{"that": True, "fail_msg": "x", "quiet": True}], "has fail_msg, quiet, which is unknown"),
        ([{"that": True, "says": ["x"]}], "requirement 1: says must be text"),
    ],
)
def test_requirements_that_are_written_wrongly_are_refused(described: Any, says: str) -> None:
    with pytest.raises(RequirementError, match=says):
        read(described)
