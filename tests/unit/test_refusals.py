# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong values that each role's precheck refuses, and what it says; no test hosts are needed.

One ansible-playbook tries all cases of ``refusals/ROLE.yml`` on this machine, which is every host
of the inventory ``lab``, with recorded facts. The first task of a case that fails must tell all
that is wrong: a second run would show nothing else. A file has

- ``host``: the host of ``lab`` that the role is applied to;
- ``facts``: what this host has beside FACTS, for all cases of all roles (may be left out);
- ``cases``: of each the ``variables``, and what the refusals ``say``, one text for each of them;
  the tasks are those of ``tasks_from``, ``precheck`` if it is left out, on another ``host``, if it
  has one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from played import KEPT_PYTHON, passed

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tests/unit/refusals").glob("*.yml"))
# Roles whose wrong values are refused on the hosts of their scenarios alone.
ON_HOSTS = {
    "model_release",
    "network_segmentation",
    "nvidia_driver",
}
# What Ansible gathers on a host, as far as prechecks read it.
FACTS = {
    "distribution": "Debian",
    "distribution_version": "12.11",
    "distribution_major_version": "12",
    "architecture": "x86_64",
    "machine": "x86_64",
    "python": {"version": {"major": 3, "minor": 11}},
    "all_ipv4_addresses": "{{ deepseek_zone_addresses.values() | list }}",
    "all_ipv6_addresses": [],
}
# More than the inventory, which says how test hosts are reached.
HERE = {
    "ansible_connection": "local",
    "ansible_become": False,
    "ansible_python_interpreter": sys.executable,
}
PLAY = re.compile(r"^PLAY \[(.*?)\] \**$", re.MULTILINE)
FAILED = re.compile(r"^(?:fatal|failed): \[.*?\].*? => (\{.*\})$", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """Wrong values that are tried together."""

    name: str
    role: str
    host: str
    tasks_from: str
    variables: dict[str, Any]
    says: list[str]


def read(path: Path) -> dict[str, Any]:
    file: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return file


def cases(path: Path) -> Iterator[Case]:
    file = read(path)
    for number, case in enumerate(file["cases"], start=1):
        yield Case(
            f"{path.stem} {number}",
            path.stem,
            case.get("host", file["host"]),
            case.get("tasks_from", "precheck"),
            case["variables"],
            case["says"],
        )


CASES = [case for path in FILES for case in cases(path)]
REFUSALS = [(case.name, text) for case in CASES for text in case.says]


def facts_of(host: str) -> dict[str, Any]:
    facts: dict[str, Any] = {**FACTS, "cacheable": True}
    for file in map(read, FILES):
        facts |= file.get("facts", {}) if file["host"] == host else {}
    return {
        "hosts": host,
        "gather_facts": False,
        "tasks": [{"ansible.builtin.set_fact": facts}],
    }


def attempt(case: Case) -> dict[str, Any]:
    role = {"name": f"onprem.deepseek.{case.role}", "tasks_from": case.tasks_from}
    task = {
        "ansible.builtin.import_role": role,
        "vars": case.variables,
        "ignore_errors": True,
    }
    return {"name": case.name, "hosts": case.host, "gather_facts": False, "tasks": [task]}


def words(result: dict[str, Any]) -> list[str]:
    """What a task that failed had to say, without line breaks."""
    said = result["msg"] if isinstance(result["msg"], list) else [result["msg"]]
    return [" ".join(one.split()) for one in said]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By the name of each case what the first task that failed had to say."""
    playbook = tmp_path_factory.mktemp("refusals") / "refusals.yml"
    hosts = sorted({case.host for case in CASES})
    playbook.write_text(yaml.safe_dump([*map(facts_of, hosts), *map(attempt, CASES)]))
    done = passed(
        playbook,
        *("--extra-vars", json.dumps(HERE)),
        inventory=ROOT / "inventories/lab",
        ANSIBLE_CALLBACK_RESULT_FORMAT="json",
        ANSIBLE_DISPLAY_FAILED_STDERR="false",
        **KEPT_PYTHON,
    )
    _before, *plays = PLAY.split(done.out)
    return {
        name: [text for result in FAILED.findall(output)[:1] for text in words(json.loads(result))]
        for name, output in zip(plays[::2], plays[1::2], strict=True)
    }


@pytest.mark.parametrize(("case", "text"), REFUSALS)
def test_a_wrong_value_is_refused_in_words(
    case: str, text: str, said: dict[str, list[str]]
) -> None:
    assert [one for one in said[case] if text in one], said[case]


def test_several_wrong_values_of_each_role_are_told_by_one_task() -> None:
    """The task that fails first is the only one that is compared."""
    assert {case.role for case in CASES if len(case.says) > 1} == {path.stem for path in FILES}


def test_every_role_that_refuses_has_its_cases() -> None:
    refusing = {path.parents[1].name for path in ROOT.glob("roles/*/tasks/precheck.yml")}
    assert {path.stem for path in FILES} == refusing - ON_HOSTS
