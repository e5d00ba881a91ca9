# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the API of AWX: keeps objects, and takes of each what its module of awx.awx sends.

Fields, types and choices are those of the modules' documentation, which their own tests compare
with their argument specifications. AWX ignores fields that it does not know; the stand-in refuses
them. It runs no jobs and updates no project.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

ROOT = Path(__file__).resolve().parents[3]
MODULES = ROOT / ".cache/collections/ansible_collections/awx/awx/plugins/modules"
TOKEN = "stand-in"
API = "/api/v2/"
# Of each endpoint the module that writes it.
ENDPOINTS = {
    "organizations": "organization",
    "credential_types": "credential_type",
    "credentials": "credential",
    "execution_environments": "execution_environment",
    "projects": "project",
    "inventories": "inventory",
    "inventory_sources": "inventory_source",
    "job_templates": "job_template",
    "workflow_job_templates": "workflow_job_template",
    "workflow_job_template_nodes": "workflow_job_template_node",
    "schedules": "schedule",
}
STARTED = ("job_templates", "workflow_job_templates", "projects", "inventory_sources")
UNIFIED = (*STARTED, "workflow_approval_templates")
REFERENCES = {
    "organization": ("organizations",),
    "credential_type": ("credential_types",),
    "credential": ("credentials",),
    "execution_environment": ("execution_environments",),
    "project": ("projects",),
    "source_project": ("projects",),
    "inventory": ("inventories",),
    "workflow_job_template": ("workflow_job_templates",),
    "unified_job_template": UNIFIED,
}
# Lists that are associations, with what is in them.
LISTS = {"credentials": "credentials", "success_nodes": "workflow_job_template_nodes"}
# Mappings that modules send as a text.
TEXTS = ("extra_vars", "variables", "source_vars")
CONTROL = ("state", "new_name", "copy_from", "update_secrets", "wait", "update_project", "interval")
READ_ONLY = ("type", "managed")
TYPES = {"str": str, "bool": bool, "int": int, "dict": dict}
# Questions of surveys: their type, and that of their answers.
ANSWERS = {
    "text": str,
    "textarea": str,
    "password": str,
    "integer": int,
    "float": (int, float),
    "multiplechoice": str,
    "multiselect": list,
}
QUESTION = {
    *("question_name", "question_description", "variable", "type", "required", "default"),
    *("choices", "min", "max", "new_question"),
}


@cache
def options(module: str) -> dict[str, dict[str, Any]]:
    """What a module documents of its arguments, less those that say how it works."""
    text = (MODULES / f"{module}.py").read_text()
    documented = yaml.safe_load(text.split("DOCUMENTATION = '''")[1].split("'''")[0])["options"]
    return {name: one for name, one in documented.items() if name not in CONTROL}


class RefusedError(Exception):
    """An answer with status 400 and these reasons."""


@dataclass
class Controller:
    """What AWX has: by endpoint and number, objects; and every request that was to write one."""

    objects: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    surveys: dict[int, dict[str, Any]] = field(default_factory=dict)
    lists: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    last: int = 0

    def add(self, endpoint: str, data: Mapping[str, Any]) -> dict[str, Any]:
        self.last += 1
        made = {"id": self.last, "type": endpoint[:-1], **data}
        made["url"] = f"{API}{endpoint}/{self.last}/"
        names = ["survey_spec", "launch"] if endpoint in STARTED[:2] else []
        if endpoint == "projects":
            made["scm_revision"] = ""
        made["related"] = {name: f"{made['url']}{name}/" for name in names}
        self.objects.setdefault(endpoint, {})[self.last] = made
        return made

    def named(self, endpoint: str, name: str) -> dict[str, Any]:
        return next(one for one in self.objects[endpoint].values() if one["name"] == name)

    def find(self, number: int, endpoints: tuple[str, ...]) -> dict[str, Any] | None:
        return next(
            (found for one in endpoints if (found := self.objects.get(one, {}).get(number))), None
        )

    def shown(self, one: dict[str, Any]) -> dict[str, Any]:
        """An object as it is read: secrets are not, and what it refers to is named."""
        summary = {
            name: {"id": other["id"], "name": other.get("name", "")}
            for name, to in REFERENCES.items()
            if (other := self.find(one.get(name) or 0, to))
        }
        inputs = {
            name: value if name == "username" else "$encrypted$"
            for name, value in (one.get("inputs") or {}).items()
        }
        kept = {"inputs": inputs} if one["type"] == "credential" else {}
        return {**one, **kept, "summary_fields": summary}

    def checked(self, endpoint: str, data: Mapping[str, Any]) -> None:
        """Refuse what AWX would, and fields that it does not have."""
        known = options(ENDPOINTS[endpoint])
        wrong: dict[str, list[str]] = {}
        for name, value in data.items():
            option = known.get(name, {})
            if name in READ_ONLY:
                continue
            if name not in known:
                wrong[name] = ["there is no such field"]
            elif name in REFERENCES:
                if value is not None and not self.find(value, REFERENCES[name]):
                    wrong[name] = [f'Invalid pk "{value}" - object does not exist.']
            elif value is not None and not isinstance(
                value, str if name in TEXTS else TYPES[option.get("type", "str")]
            ):
                wrong[name] = [f"Not a valid {option.get('type', 'str')}."]
            elif value and option.get("choices") and value not in option["choices"]:
                wrong[name] = [f'"{value}" is not a valid choice.']
        playbook = data.get("playbook")
        if playbook and not (ROOT / playbook).is_file():
            wrong["playbook"] = ["Playbook not found for project."]
        started = data.get("unified_job_template") or 0
        if refused := self.answer_problems(started, data.get("extra_data") or {}, needed=False):
            wrong["extra_data"] = refused
        if wrong:
            raise RefusedError(wrong)

    def create(self, endpoint: str, data: Mapping[str, Any]) -> dict[str, Any]:
        self.checked(endpoint, data)
        known = options(ENDPOINTS[endpoint])
        missing = [name for name, one in known.items() if one.get("required") and name not in data]
        if missing:
            raise RefusedError({name: ["This field is required."] for name in missing})
        same = ("name", "identifier", "organization", "credential_type", "inventory")
        same += (
            "workflow_job_template",
            "unified_job_template" if endpoint == "schedules" else "name",
        )
        for one in self.objects.get(endpoint, {}).values():
            if all(one.get(name) == data.get(name) for name in same):
                raise RefusedError({"__all__": ["An object with this name already exists."]})
        return self.add(endpoint, {**defaults(endpoint), **data})

    def change(self, one: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        endpoint = one["url"].split("/")[3]
        if endpoint in ENDPOINTS:
            self.checked(endpoint, data)
        one.update(data)
        return one

    def survey_problems(self, spec: Mapping[str, Any]) -> list[str]:
        found = [name for name in ("name", "description", "spec") if name not in spec]
        for question in spec.get("spec", ()):
            if set(question) != QUESTION or question["type"] not in ANSWERS:
                found.append(f"{question.get('variable')}: not a question")
                continue
            numbers = (question["min"], question["max"])
            if not all(isinstance(one, int) for one in numbers) or not question["question_name"]:
                found.append(f"{question['variable']}: no bounds, or no name")
            default = question["default"]
            if default != "" and not isinstance(default, ANSWERS[question["type"]]):
                found.append(f"{question['variable']}: default of another type")
        return found

    def answer_problems(self, number: int, answers: Mapping[str, Any], needed: bool) -> list[str]:
        """What AWX says of answers to a survey, in its words."""
        found = []
        for question in self.surveys.get(number, {}).get("spec", ()):
            name, kind = question["variable"], question["type"]
            if name not in answers:
                if needed and question["required"] and question["default"] == "":
                    found.append(f"'{name}' value missing")
                continue
            value = answers[name]
            if not isinstance(value, ANSWERS[kind]):
                words = {"integer": "an integer", "float": "a numeric type"}.get(kind, "a string")
                found.append(f"Value {value} for '{name}' expected to be {words}.")
            elif question["choices"] and value not in question["choices"]:
                found.append(
                    f"Value {value} for '{name}' expected to be one of {question['choices']}."
                )
        return found


@cache
def defaults(endpoint: str) -> dict[str, Any]:
    """What an object has that was not said."""
    empty = {"str": "", "bool": False, "int": 0}
    return {
        name: None
        if name in REFERENCES or name == "host_filter"
        else ""
        if name in TEXTS
        else empty.get(one.get("type", "str"), {})
        for name, one in options(ENDPOINTS[endpoint]).items()
        if one.get("type") != "list"
    }


class Handler(BaseHTTPRequestHandler):
    """The requests that modules of awx.awx make."""

    protocol_version = "HTTP/1.1"
    controller: Controller

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""

    def answer(self, status: int, content: Any = None) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("X-API-Product-Name", "AWX")
        self.send_header("X-API-Product-Version", "24.6.1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_request(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        data = json.loads(self.rfile.read(length) or b"{}")
        url = urlsplit(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"detail": "Authentication credentials were not provided."})
            return
        if self.command != "GET":
            self.controller.writes.append(f"{self.command} {url.path}")
        parts = url.path.removeprefix(API).strip("/").split("/")
        try:
            self.answer(*self.respond(parts, data, dict(parse_qsl(url.query))))
        except RefusedError as error:
            self.answer(400, error.args[0])

    def respond(self, parts: list[str], data: Any, query: dict[str, str]) -> tuple[int, Any]:
        endpoint, *rest = parts
        there = self.controller
        if not rest:
            if self.command == "POST":
                return 201, there.shown(there.create(endpoint, data))
            return 200, self.listed(endpoint, query)
        one = there.find(int(rest[0]), (endpoint,))
        if one is None:
            return 404, {"detail": "Not found."}
        if len(rest) == 1:
            if self.command == "PATCH":
                there.change(one, data)
            return 200, there.shown(one)
        return self.of_object(one, rest[1], data)

    def listed(self, endpoint: str, query: dict[str, str]) -> dict[str, Any]:
        endpoints = STARTED if endpoint == "unified_job_templates" else (endpoint,)
        found = [
            one for name in endpoints for one in self.controller.objects.get(name, {}).values()
        ]
        size, page = int(query.pop("page_size", "25")), int(query.pop("page", "1"))
        for name, value in query.items():
            found = [one for one in found if str(one.get(name.removeprefix("or__"))) == value]
        shown = [self.controller.shown(one) for one in found[size * (page - 1) : size * page]]
        more = (
            f"{API}{endpoint}/?page_size={size}&page={page + 1}"
            if len(found) > size * page
            else None
        )
        return {"count": len(found), "next": more, "previous": None, "results": shown}

    def of_object(self, one: dict[str, Any], part: str, data: Any) -> tuple[int, Any]:
        there, number = self.controller, one["id"]
        if part == "survey_spec" and part in one["related"]:
            if self.command == "POST":
                if refused := there.survey_problems(data):
                    return 400, {"error": refused}
                there.surveys[number] = data
                return 200, None
            if self.command == "DELETE":
                there.surveys.pop(number, None)
            return 200, there.surveys.get(number, {})
        if part == "launch" and part in one["related"]:
            needed = there.answer_problems(number, data.get("extra_vars") or {}, needed=True)
            return (
                (400, {"variables_needed_to_start": needed})
                if needed
                else (201, {"id": 1, "status": "pending"})
            )
        if part == "create_approval_template":
            made = there.add(
                "workflow_approval_templates", {"description": "", "timeout": 0, **data}
            )
            there.change(one, {"unified_job_template": made["id"]})
            one["related"]["unified_job_template"] = made["url"]
            return 201, made
        if part not in LISTS or part not in options(
            ENDPOINTS.get(one["url"].split("/")[3], "label")
        ):
            return 404, {"detail": "Not found."}
        members = there.lists.setdefault((number, part), [])
        if self.command == "POST":
            (members.remove if data.get("disassociate") else members.append)(data["id"])
            return 204, None
        shown = [there.shown(there.objects[LISTS[part]][member]) for member in members]
        return 200, {"count": len(shown), "next": None, "previous": None, "results": shown}


@contextmanager
def served(controller: Controller) -> Iterator[str]:
    """Serve it on a port of this machine; gives the URL."""
    methods = {f"do_{name}": Handler.handle_request for name in ("GET", "POST", "PATCH", "DELETE")}
    handler = type("Bound", (Handler,), {"controller": controller, **methods})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
