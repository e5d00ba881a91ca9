# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""awx/: a template for every playbook, surveys of specifications, faults before any write."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awx_data
import pytest
import yaml

from ansible_collections.onprem.deepseek.plugins.module_utils.awx import specifications
from ansible_collections.onprem.deepseek.plugins.module_utils.awx.configuration import (
    configuration,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.awx.surveys import survey
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.role_variables import (
    known as role_variables,
)

ROOT = Path(__file__).resolve().parents[3]
# What AWX has by itself.
BUILT_IN = {"credential_types": [{"name": "Machine"}, {"name": "Source Control"}]}
DATA = awx_data.data()
TEMPLATES = {
    Path(one["playbook"]).stem: one
    for one in configuration(DATA, BUILT_IN)["objects"]["job_templates"]
}


def test_every_playbook_has_a_template_or_a_reason_for_none() -> None:
    reasons = awx_data.variables()["awx_without_template"]
    assert sorted([*TEMPLATES, *reasons]) == specifications.names()
    assert all(len(reason.split()) > 5 for reason in reasons.values())


def test_the_data_of_an_example_has_no_problem() -> None:
    assert configuration(DATA, BUILT_IN)["problems"] == []


@pytest.mark.parametrize("playbook", TEMPLATES)
def test_a_survey_asks_what_the_specifications_say(playbook: str) -> None:
    asks = next(one for one in DATA["job_templates"] if one["playbook"] == playbook).get("asks", [])
    wanted = {
        **specifications.of_playbooks().get(playbook, {}),
        **{name: role_variables().variables[name] for name in asks},
    }
    spec = TEMPLATES[playbook]["survey_spec"]
    asked = {question["variable"]: question for question in spec.get("spec", ())}
    assert asked.keys() == wanted.keys()
    assert TEMPLATES[playbook]["survey_enabled"] == bool(wanted)
    for name, option in wanted.items():
        kinds = {"str": "text", "int": "integer", "float": "float", "list": "textarea"}
        kind, choices = kinds.get(option["type"]), option.get("choices", [])
        default = option.get("default", "")
        if option["type"] == "bool":
            choices, default = ["true", "false"], str(default).lower()
        assert asked[name]["type"] == ("multiplechoice" if choices else kind)
        assert asked[name]["required"] == option.get("required", False)
        assert asked[name]["default"] == default
        assert asked[name]["choices"] == choices


def with_imports(playbook: str) -> str:
    text = (ROOT / "playbooks" / f"{playbook}.yml").read_text()
    imported = re.findall(r"import_playbook: (\w+)\.yml", text)
    return text + "".join(with_imports(name) for name in imported)


@pytest.mark.parametrize("playbook", specifications.of_playbooks())
def test_playbooks_use_the_variables_that_are_specified(playbook: str) -> None:
    text = with_imports(playbook)
    if playbook == "awx_configure":
        text += "".join(path.read_text() for path in (ROOT / "awx").glob("*.yml"))
        text += (ROOT / "playbooks/tasks/awx_objects.yml").read_text()
    options = specifications.of_playbooks()[playbook]
    assert [name for name in options if not re.search(rf"\b{name}\b", text)] == []


def test_the_playbook_has_the_defaults_that_are_specified() -> None:
    plays = yaml.safe_load((ROOT / "playbooks/awx_configure.yml").read_text())
    options = specifications.of_playbooks()["awx_configure"]
    wanted = {name: one["default"] for name, one in options.items() if "default" in one}
    assert {name: plays[0]["vars"].get(name) for name in wanted} == wanted


def test_pins_are_attached_where_a_token_may_be_set_up() -> None:
    found = configuration(awx_data.data(awx_pins=True), BUILT_IN)["objects"]["job_templates"]
    attached = {
        Path(one["playbook"]).stem for one in found if "deepseek PINs" in one["credentials"]
    }
    uses_tls = {
        name
        for name in TEMPLATES
        if re.search(r"onprem\.deepseek\.tls$", with_imports(name), re.MULTILINE)
    }
    assert uses_tls - {"verify", "preflight"} == attached
    injected = DATA["credential_types"][0]["injectors"]["extra_vars"]
    assert injected.keys() <= role_variables().specs["tls"].keys()


Change = Callable[[dict[str, Any], dict[str, Any]], object]


def named(name: str, **fields: Any) -> dict[str, Any]:
    owner = {"organization": {"name": fields.pop("owner", "DeepSeek")}}
    return {"name": name, "summary_fields": owner, **fields}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda data, _there: data["credential_inputs"].clear(),
            "credential 'deepseek hosts' (Machine) is not in AWX: create it there",
        ),
        (
            lambda data, _there: data["credential_inputs"].update({"deepseek host": {}}),
            "awx_credential_inputs: no credential is called 'deepseek host'",
        ),
        (
            lambda _data, there: there.update(inventories=[named("deepseek site", owner="Other")]),
            "inventory 'deepseek site' belongs to Other in AWX, not to 'DeepSeek'",
        ),
        (
            lambda _data, there: there.update(credentials=[named("deepseek hosts")] * 2),
            "credential 'deepseek hosts' is in AWX 2 times",
        ),
        (
            lambda data, _there: data["inventories"][0].update(organization="Deepseek"),
            "inventory 'deepseek site': organization 'Deepseek' is neither in awx/ nor in AWX",
        ),
        (
            lambda data, _there: data["job_templates"][0].update(credentials=["key of hosts"]),
            "job template 'deepseek preflight': credential 'key of hosts' is neither",
        ),
        (
            lambda data, _there: data["job_templates"][0].update(inventory="deepseek sites"),
            "inventory 'deepseek sites' is neither in awx/ nor in AWX",
        ),
        (
            lambda data, _there: data["job_templates"][0].update(playbook="prefligth"),
            "job template 'deepseek prefligth': there is no playbook prefligth.yml",
        ),
        (
            lambda data, _there: data["job_templates"][0].update(asks=["preflight_netwerk"]),
            "job template 'deepseek preflight': no role has a variable preflight_netwerk",
        ),
        (
            lambda data, _there: data["job_templates"][0].update(
                asks=["gpu_validation_burn_in_expectations"]
            ),
            "gpu_validation_burn_in_expectations is dict, which no question of a survey can ask",
        ),
        (
            lambda data, _there: data["execution_environments"][0].update(image="ee:latest"),
            "image 'ee:latest' is not by digest",
        ),
        (
            lambda data, _there: data["schedules"][0].update(rrule="every sunday"),
            "schedule 'deepseek health, weekly': 'every sunday' is no recurrence rule",
        ),
        (
            lambda data, _there: data["schedules"][0].update(
                unified_job_template="deepseek driver_upgrade",
                extra_data={"driver_upgrade_serial": "two"},
            ),
            "driver_upgrade_serial is 'two', and its question takes integer",
        ),
        (
            lambda data, _there: data["schedules"][0].update(
                unified_job_template="deepseek driver_upgrade",
                extra_data={"driver_upgrade_serial": True},
            ),
            "driver_upgrade_serial is True, and its question takes integer",
        ),
        (
            lambda data, _there: data["schedules"][0].update(
                unified_job_template="deepseek model_cache"
            ),
            "cache_version is required, and extra_data does not answer it",
        ),
        (
            lambda data, _there: data["workflows"][0]["nodes"][0].update(
                extra_data={"preflight_network": "fast"}
            ),
            "preflight_network is 'fast', and must be of off, latency, full",
        ),
        (
            lambda data, _there: data["workflows"][0]["nodes"][0].update(extra_data={"limit": "a"}),
            "limit is no question of the survey",
        ),
        (
            lambda data, _there: data["workflows"][0]["nodes"][0].update(success_nodes=["gone"]),
            "workflow job template node 'deepseek rollout/gone' is neither",
        ),
        (
            lambda data, _there: data["projects"].append(dict(data["projects"][0])),
            "project 'deepseek playbooks' is in awx/ 2 times",
        ),
        (
            lambda data, _there: data["projects"][0].update(name="deepseek site"),
            "'deepseek site' is the name of 2 things that AWX starts",
        ),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_written(change: Change, says: str) -> None:
    data, there = copy.deepcopy(DATA), copy.deepcopy(BUILT_IN)
    change(data, there)
    found = configuration(data, there)["problems"]
    assert any(says in problem for problem in found), found


def test_objects_that_refer_to_what_awx_lacks_are_blocked() -> None:
    found = configuration(DATA, BUILT_IN)["objects"]
    assert not found["organizations"][0]["blocked"]
    assert found["inventories"][0]["blocked"]
    there = {**BUILT_IN, "organizations": [named("DeepSeek")]}
    found = configuration(DATA, there)["objects"]
    assert not found["organizations"][0]["new"]
    assert found["inventories"][0]["new"]
    assert not found["inventories"][0]["blocked"]
    assert found["inventory_sources"][0]["blocked"]


def test_a_workflow_asks_what_its_nodes_ask_and_do_not_answer() -> None:
    data = copy.deepcopy(DATA)
    found = [one for one in data["workflows"] if one["name"] == "deepseek from pilot to gray"]
    workflow = found[0]

    def asked() -> list[str]:
        found = configuration(data, BUILT_IN)["objects"]["workflow_job_templates"]
        spec = next(one for one in found if one["name"] == workflow["name"])["survey_spec"]
        return [question["variable"] for question in spec.get("spec", ())]

    assert asked() == ["stage_approver"]
    workflow["nodes"][0]["extra_data"] = {"stage_approver": "Dr. Li"}
    assert asked() == []


def test_true_or_false_and_lists_are_asked_as_awx_can() -> None:
    options: dict[str, dict[str, Any]] = {
        "a": {"type": "bool", "default": True},
        "b": {"type": "list", "elements": "str", "default": ["x", "y"]},
        "c": {"type": "list", "elements": "str", "choices": ["x", "y"]},
    }
    a, b, c = survey("", options)["spec"]
    assert (a["type"], a["choices"], a["default"]) == ("multiplechoice", ["true", "false"], "true")
    assert (b["type"], b["default"]) == ("textarea", "x\ny")
    assert (c["type"], c["choices"]) == ("multiselect", ["x", "y"])
    assert survey("", {}) == {}
