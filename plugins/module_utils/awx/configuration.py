# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What AWX is to have, of the data in ``awx/``: objects as modules of awx.awx take them, and everything that is wrong before one is written.

Modules find what an object refers to by its name, most of it in every organization, and fail in check mode on what the run itself would
create. So each object says whether it refers to something that AWX does not have yet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import specifications, surveys

Object = dict[str, Any]
# Kinds in the order in which they are created; fields that refer to others, with the kind that they refer to.
REFERENCES: dict[str, dict[str, str]] = {
    "organizations": {},
    "credential_types": {},
    "credentials": {"organization": "organizations", "credential_type": "credential_types"},
    "execution_environments": {"organization": "organizations", "credential": "credentials"},
    "projects": {"organization": "organizations", "credential": "credentials"},
    "inventories": {"organization": "organizations"},
    "inventory_sources": {
        "organization": "organizations",
        "inventory": "inventories",
        "source_project": "projects",
        "execution_environment": "execution_environments",
    },
    "job_templates": {
        "organization": "organizations",
        "project": "projects",
        "inventory": "inventories",
        "execution_environment": "execution_environments",
        "credentials": "credentials",
    },
    "workflow_job_templates": {"organization": "organizations"},
    "workflow_job_template_nodes": {
        "organization": "organizations",
        "workflow_job_template": "workflow_job_templates",
        "unified_job_template": "job_templates",
        "inventory": "inventories",
    },
    "workflow_links": {
        "workflow_job_template": "workflow_job_templates",
        "nodes": "workflow_job_template_nodes",
    },
    "schedules": {"organization": "organizations", "unified_job_template": "unified_job_templates"},
}
# A schedule or a node may start either.
_STARTED = ("job_templates", "workflow_job_templates")
# What AWX calls unified job templates, which it finds by name.
_UNIFIED = (*_STARTED, "projects", "inventory_sources")
# Found by name in all organizations.
_NAME_ALONE = ("execution_environments", "credentials", "inventories")
_DIGEST = re.compile(r"\S+@sha256:[0-9a-f]{64}")
_RRULE = re.compile(r"DTSTART(;TZID=[\w/+-]+)?:\d{8}T\d{6}Z? RRULE:FREQ=(DAILY|WEEKLY|MONTHLY);\S+")


def configuration(data: Mapping[str, Any], existing: Mapping[str, Sequence[Object]]) -> Object:
    """Return the objects of each kind, and the problems of all of them.

    *data* is what ``awx/`` has, and *existing* what AWX has of each kind, as its API lists it. An object is as its module's arguments, with
    ``new`` (AWX has none of that name) and ``blocked`` (AWX lacks something that it refers to).
    """
    problems: list[str] = []
    wanted = {kind: [dict(one) for one in data.get(kind, ())] for kind in REFERENCES}
    wanted["job_templates"] = list(_job_templates(data, problems))
    _add_workflows(wanted, data["workflows"])
    problems += _dangling(wanted, existing)
    problems += _elsewhere(wanted, existing)
    problems += _without_secrets(wanted, existing, data.get("credential_inputs") or {})
    problems += _malformed(wanted)
    problems += _answers(wanted)
    there = {kind: {_identity(kind, one) for one in existing.get(kind, ())} for kind in REFERENCES}
    objects = {
        kind: [
            {
                **one,
                "new": _identity(kind, one) not in there[kind],
                "blocked": not all(
                    any(target in there[other] for other in _kinds(to))
                    for to, target in _targets(kind, one)
                ),
            }
            for one in found
        ]
        for kind, found in wanted.items()
    }
    return {"problems": problems, "objects": objects}


def _job_templates(data: Mapping[str, Any], problems: list[str]) -> Iterator[Object]:
    for entry in data.get("job_templates", ()):
        arguments = {**data["job_template_defaults"], **entry}
        playbook, asks = arguments.pop("playbook"), arguments.pop("asks", ())
        name = f"{data['prefix']} {playbook}"
        try:
            if playbook not in specifications.names():
                raise ValueError(f"there is no playbook {playbook}.yml")
            options = specifications.options(playbook, asks)
            spec = surveys.survey(arguments["description"], options)
        except ValueError as error:
            problems.append(f"job template '{name}': {error}")
            spec = {}
        yield {
            **arguments,
            "name": name,
            "playbook": f"playbooks/{playbook}.yml",
            "survey_enabled": bool(spec),
            "survey_spec": spec,
        }


def _add_workflows(wanted: dict[str, list[Object]], workflows: Iterable[Object]) -> None:
    """Divide each workflow into the template, its nodes, and the links between them, which need both ends."""
    templates = {one["name"]: one for one in wanted["job_templates"]}
    for workflow in workflows:
        arguments = dict(workflow)
        nodes = arguments.pop("nodes")
        asked: dict[str, Any] = {}
        for node in nodes:
            links = node.get("success_nodes", [])
            common = {
                "workflow_job_template": arguments["name"],
                "organization": arguments["organization"],
                "identifier": node["identifier"],
            }
            own = {key: value for key, value in node.items() if key != "success_nodes"}
            wanted["workflow_job_template_nodes"].append({**own, **common})
            if links:
                wanted["workflow_links"].append({**common, "success_nodes": links})
            template = templates.get(node.get("unified_job_template", ""), {})
            for question in template.get("survey_spec", {}).get("spec", ()):
                if question["variable"] not in node.get("extra_data", {}):
                    asked.setdefault(question["variable"], question)
        spec = {"name": "", "description": arguments["description"], "spec": list(asked.values())}
        wanted["workflow_job_templates"].append(
            {**arguments, "survey_enabled": bool(asked), "survey_spec": spec if asked else {}}
        )


def _identity(kind: str, one: Mapping[str, Any]) -> str:
    """What an object is called; a node, and the links from it, in its workflow."""
    if kind in ("workflow_job_template_nodes", "workflow_links"):
        summary = one.get("summary_fields", {}).get("workflow_job_template", {})
        return f"{summary.get('name', one['workflow_job_template'])}/{one['identifier']}"
    return str(one["name"])


def _kinds(kind: str) -> tuple[str, ...]:
    return _STARTED if kind == "unified_job_templates" else (kind,)


def _targets(kind: str, one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and name of everything that an object refers to."""
    for field, to in REFERENCES[kind].items():
        if field == "nodes":
            ends = [one["identifier"], *one["success_nodes"]]
            yield from ((to, f"{one['workflow_job_template']}/{end}") for end in ends)
            continue
        value = one.get(field)
        for name in value if isinstance(value, list) else [value]:
            if name:
                yield to, str(name)


def _words(kind: str, name: str) -> str:
    singular = kind[:-1].replace("ie", "y").replace("_", " ")
    return f"{singular} '{name}'"


def _dangling(
    wanted: Mapping[str, list[Object]], existing: Mapping[str, Sequence[Object]]
) -> Iterator[str]:
    names = {
        kind: {_identity(kind, one) for one in (*wanted[kind], *existing.get(kind, ()))}
        for kind in REFERENCES
    }
    for kind, found in wanted.items():
        for one in found:
            for to, target in _targets(kind, one):
                if not any(target in names[other] for other in _kinds(to)):
                    where = _words(kind, _identity(kind, one))
                    yield f"{where}: {_words(to, target)} is neither in awx/ nor in AWX"


def _elsewhere(
    wanted: Mapping[str, list[Object]], existing: Mapping[str, Sequence[Object]]
) -> Iterator[str]:
    """Objects of other organizations that a module would take for ours, and those that it could not tell apart."""
    for kind in _NAME_ALONE:
        for one in wanted[kind]:
            same = [other for other in existing.get(kind, ()) if other["name"] == one["name"]]
            for owner in (_owner(other) for other in same):
                if owner != one["organization"]:
                    yield (
                        f"{_words(kind, one['name'])} belongs to {owner} in AWX, not to '{one['organization']}': correct awx_organization,"
                        " or choose another awx_prefix"
                    )
            if len(same) > 1:
                yield f"{_words(kind, one['name'])} is in AWX {len(same)} times: rename the others"


def _owner(one: Mapping[str, Any]) -> str:
    return str(one.get("summary_fields", {}).get("organization", {}).get("name", "no organization"))


def _without_secrets(
    wanted: Mapping[str, list[Object]],
    existing: Mapping[str, Sequence[Object]],
    inputs: Mapping[str, Any],
) -> Iterator[str]:
    there = {one["name"] for one in existing.get("credentials", ())}
    names = {one["name"] for one in wanted["credentials"]}
    for one in wanted["credentials"]:
        if one["name"] not in there and not inputs.get(one["name"]):
            yield (
                f"credential '{one['name']}' ({one['credential_type']}) is not in AWX: create it there in organization"
                f" '{one['organization']}', or give its inputs in awx_credential_inputs"
            )
    for name in inputs:
        if name not in names:
            yield f"awx_credential_inputs: no credential is called '{name}', only {', '.join(sorted(names))}"


def _malformed(wanted: Mapping[str, list[Object]]) -> Iterator[str]:
    for one in wanted["execution_environments"]:
        if not _DIGEST.fullmatch(one["image"]):
            yield f"execution environment '{one['name']}': image {one['image']!r} is not by digest: name it with @sha256: and 64 digits"
    for one in wanted["schedules"]:
        if not _RRULE.fullmatch(one["rrule"]):
            yield f"schedule '{one['name']}': {one['rrule']!r} is no recurrence rule that AWX reads"
    for kind, found in wanted.items():
        for name, times in _repeated(_identity(kind, one) for one in found):
            yield f"{_words(kind, name)} is in awx/ {times} times"
    for name, times in _repeated(one["name"] for kind in _UNIFIED for one in wanted[kind]):
        yield f"'{name}' is the name of {times} things that AWX starts, and nodes and schedules find them by name"


def _repeated(names: Iterable[str]) -> list[tuple[str, int]]:
    return sorted((name, times) for name, times in Counter(names).items() if times > 1)


def _answers(wanted: Mapping[str, list[Object]]) -> Iterator[str]:
    """Answers that nodes and schedules give to surveys, where AWX would refuse them, or would wait for one that nobody gives."""
    spec_of = {one["name"]: one["survey_spec"] for kind in _STARTED for one in wanted[kind]}
    for kind in ("workflow_job_template_nodes", "schedules"):
        for one in wanted[kind]:
            spec = spec_of.get(one.get("unified_job_template", ""), {})
            given = one.get("extra_data", {})
            where = _words(kind, _identity(kind, one))
            yield from (f"{where}: {problem}" for problem in surveys.answer_problems(spec, given))
            if kind == "schedules":
                for name in surveys.unanswered(spec, given):
                    yield f"{where}: {name} is required, and extra_data does not answer it"
