# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action require, through ansible-playbook; no host can be reached, since none is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from played import passed

ROOT = Path(__file__).resolve().parents[4]

REQUIREMENTS = [
    {
        "where": "port",
        "that": "port | int >= 1024",
        "says": "it is {{ port }}, on {{ described }}",
        "remedy": "Set it to 1024 or more",
    },
    {"that": "nowhere.at_all > 1", "says": "never", "remedy": "Set it"},
    {"that": "[] | onprem.deepseek.workers('x') is sequence", "covered_by": "workers"},
    {
        "loop": "{{ names }}",
        "where": "{{ item }}",
        "that": "lookup('ansible.builtin.vars', item) is true",
        "says": "{{ nothing_of_this_name }}",
    },
    {"that": "missing is defined", "says": "it is {{ missing | default('not set') }}"},
    {"when": "missing is defined", "that": "missing > 1"},
    {"that": ["port is defined", "{'a': [1]}.a[0] == 1", True]},
]


GIVEN = {
    "name": "Set what a host could have said",
    "ansible.builtin.set_fact": {
        "said": "{{ '[[ 1 == 1 ]]' | replace('[[', '{{') | replace(']]', '}}') }}"
    },
}


def require(name: str, requirements: Any, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "onprem.deepseek.require": {"requirements": "those"},
        "vars": {"those": requirements},
        "ignore_errors": True,
        **more,
    }


TASKS = [
    GIVEN,
    require("all", REQUIREMENTS),
    require("met", REQUIREMENTS[-2:], register="met", run_once=True, delegate_to="node-2.invalid"),
    require("result", [{"that": "met.findings == [] and met is not changed"}]),
    require("text", [{"loop": "{{ [said] }}", "that": False, "says": "{{ item }}"}]),
    require("expression", [{"that": "{{ said }}", "says": "it is not", "remedy": "x"}]),
    require("template", "{{ [] }}"),
    require("option", [{"that": "true", "msg": "x"}]),
]


def run(directory: Path, *options: str) -> dict[str, dict[str, Any]]:
    """The results of the tasks that failed, by task and host, as JSON."""
    values = {"port": 80, "described": "{{ inventory_hostname }}", "names": ["odd"], "odd": False}
    play = {"hosts": "all", "gather_facts": False, "vars": values, "tasks": TASKS}
    playbook = directory / "play.yml"
    playbook.write_text(yaml.safe_dump([play]))
    done = passed(
        playbook,
        *options,
        inventory="node-1.invalid,node-2.invalid",
        ANSIBLE_CALLBACK_RESULT_FORMAT="json",
        ANSIBLE_DISPLAY_FAILED_STDERR="false",
    )
    decoder = json.JSONDecoder()
    found: dict[str, dict[str, Any]] = {}
    for part in done.out.split("\nTASK [")[1:]:
        task, _end, said = part.partition("]")
        found[task] = {}
        for one in said.split("fatal: [")[1:]:
            host, _arrow, result = one.partition("]: FAILED! => ")
            found[task][host.removesuffix(".invalid")], _end = decoder.raw_decode(result)
    return found


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return run(tmp_path_factory.mktemp("require"))


def test_all_that_is_wrong_is_told_by_one_task(failed: dict[str, Any]) -> None:
    assert failed["all"].keys() == {"node-1", "node-2"}
    result = failed["all"]["node-1"]
    assert result["msg"][:2] == [
        "node-1.invalid, port: it is 80, on node-1.invalid. Set it to 1024 or more.",
        "node-1.invalid: 'nowhere' is undefined. Set it.",
    ]
    assert result["msg"][2].startswith("node-1.invalid: deepseek_")
    assert result["msg"][3:] == [
        "node-1.invalid, odd: 'nothing_of_this_name' is undefined.",
        "node-1.invalid: it is not set.",
    ]
    assert [one["covered_by"] for one in result["findings"]] == [[], [], ["workers"], [], []]
    assert result["findings"][0] == {
        "where": "node-1.invalid, port",
        "what": "it is 80, on node-1.invalid",
        "remedy": "Set it to 1024 or more",
        "covered_by": [],
    }


def test_check_mode_and_a_limit_tell_the_same(failed: dict[str, Any], tmp_path: Path) -> None:
    (limited,) = run(tmp_path, "--check", "--limit=node-1.invalid")["all"].values()
    assert limited == failed["all"]["node-1"]


def test_a_host_that_meets_everything_goes_on(failed: dict[str, Any]) -> None:
    assert failed["met"] == failed["result"] == {}


def test_only_texts_of_playbooks_and_roles_are_evaluated(failed: dict[str, Any]) -> None:
    """A value that a host gave is no template, whatever it says."""
    assert failed["text"]["node-1"]["msg"] == ["node-1.invalid: {{ 1 == 1 }}."]
    assert len(failed["expression"]["node-1"]["msg"]) == 1


def test_requirements_that_are_written_wrongly_are_told(failed: dict[str, Any]) -> None:
    wrong = [failed[task]["node-1"]["msg"] for task in ("template", "option")]
    assert "those: requirements must be a list, not " in wrong[0]
    assert wrong[1] == "those: requirement 1 has msg, which is unknown"
