# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.filter.failure_words import (
    FilterModule as Words,
)
from ansible_collections.onprem.deepseek.plugins.filter.verdict import FilterModule as Verdicts
from ansible_collections.onprem.deepseek.plugins.module_utils.common.verdict import failure_words

GROUPS = {"all": ["gw", "st"], "gateway": ["gw"], "storage": ["st"]}
QUESTIONS = {"all": ["tls"], "gateway": ["gateway"], "storage": ["copies"]}
WELL = {"gw": {"__v_asked": ["tls", "gateway"]}, "st": {"__v_asked": ["tls", "copies"]}}


def judge(
    hosts: list[str], facts: dict[str, dict[str, Any]] | None = None, **options: Any
) -> dict[str, list[str]]:
    judged: dict[str, list[str]] = Verdicts().filters()["verdict"](
        hosts, facts or WELL, GROUPS, "v", QUESTIONS, **options
    )
    return judged


def test_all_that_was_asked_and_well_is_no_fault() -> None:
    assert judge(["gw", "st"]) == {"wrong": [], "asked": ["gw", "st"], "left_out": []}


def test_a_limit_is_said() -> None:
    assert judge(["gw"]) == {"wrong": [], "asked": ["gw"], "left_out": ["st"]}


@pytest.mark.parametrize(
    ("facts", "options", "said"),
    [
        ({"gw": {"__v_problems": ["gw: no"], **WELL["gw"]}}, {}, "gw: no"),
        ({"gw": {"__v_asked": ["tls"]}}, {}, "gw: it was not asked about gateway: it dropped"),
        ({"gw": {}}, {}, "gw: it was not asked about tls, gateway: it dropped"),
        (
            {"gw": {"__v_answer": {"unreachable": True, "msg": "no route"}}},
            {},
            "gw: it cannot be used: no route",
        ),
        (
            {"gw": {"__v_answer": {"failed": True, "msg": "Missing sudo password"}}},
            {},
            "gw: it cannot be used: Missing sudo password",
        ),
        # what is known of it is of an earlier play
        ({"gw": WELL["gw"]}, {"dropped": ["gw"]}, "gw: it dropped out of the run."),
        ({"gw": WELL["gw"]}, {"needed": ["inference"]}, "group inference: it has no host"),
    ],
    ids=["fault", "left-out", "tags", "unreachable", "sudo", "dropped", "empty-group"],
)
def test_what_was_not_asked_is_a_fault(
    facts: dict[str, dict[str, Any]], options: dict[str, Any], said: str
) -> None:
    wrong = judge(["gw", "st"], {**WELL, **facts}, **options)["wrong"]
    assert len(wrong) == 1
    assert wrong[0].startswith(said)


@pytest.mark.parametrize("hosts", [[], ["localhost"]])
def test_a_run_without_hosts_to_ask_is_a_fault(hosts: list[str]) -> None:
    (wrong,) = judge(hosts, {"localhost": {}})["wrong"]
    assert wrong.startswith("Nothing was asked: no host of the run is in group all, gateway")


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"msg": "Action failed: the file is not there"}, ["the file is not there"]),
        ({"msg": ["one", "two"]}, ["one", "two"]),
        ({"msg": ""}, ["it failed"]),
        ("it broke", ["it broke"]),
        (
            {
                "msg": "One or more items failed",
                "results": [
                    {"msg": "All assertions passed"},
                    {"failed": True, "msg": "no wheels of 3.11. Run onprem.deepseek.bundle_fetch"},
                    {"failed": True, "msg": "no wheels of 3.11. Run onprem.deepseek.bundle_fetch"},
                    {"failed": True, "results": [{"failed": True, "msg": "deeper"}]},
                    {"unreachable": True, "msg": "no route"},
                ],
            },
            ["no wheels of 3.11. Run onprem.deepseek.bundle_fetch", "deeper", "no route"],
        ),
        (
            {"msg": "non-zero return code", "cmd": ["openssl", "x509"], "rc": 1, "stderr": "a\nb"},
            ["openssl x509: ended with 1: b"],
        ),
        (
            {"msg": "MODULE FAILURE: No start of json", "module_stderr": "x\nMemoryError\n"},
            ["MemoryError"],
        ),
        (
            {"msg": "Status code was -1 and not [200]: timed out", "url": "https://h/readyz"},
            ["https://h/readyz: Status code was -1 and not [200]: timed out"],
        ),
    ],
)
def test_a_failed_task_is_told_in_its_own_words(result: Any, said: list[str]) -> None:
    assert Words().filters()["failure_words"](result) == said == failure_words(result)
