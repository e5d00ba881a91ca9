"""The gateway, the service and docs/reference/api.md have the same routes, codes and limits."""

from __future__ import annotations

import re
from typing import Any, get_args

import httpx
import yaml
from support import ROOT

from deepseek_serving.http.admission import LARGEST_BODY
from deepseek_serving.http.error_codes import ErrorCode, GatewayCode
from deepseek_serving.http.headers import ONCE
from deepseek_serving.http.middleware import ID
from deepseek_serving.http.routes import ROUTES

ROLE = ROOT / "roles/gateway"
PAGE = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")


def variables(name: str) -> dict[str, Any]:
    text = (ROLE / f"{name}/main.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def cells(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_a_gateway_passes_on_what_the_service_has_for_clients() -> None:
    answered_here = {"/health", "/healthz"}
    wanted = {route.path for route in ROUTES if route.for_clients} - answered_here
    passed = set(variables("vars")["__gateway_paths"])
    assert passed == {path for path in wanted if not path.startswith("/v1/")}
    template = (ROLE / "templates/haproxy.cfg.j2").read_text(encoding="utf-8")
    assert {f"path {path}" for path in answered_here} <= set(re.findall("path /[a-z]+", template))


def test_the_page_has_every_endpoint_and_the_list_of_routes_too(client: httpx.Client) -> None:
    table = PAGE.split("| endpoint | what |")[1].split("\n\n")[0]
    named = {
        path.removeprefix("POST ").removeprefix("GET ")
        for row in table.splitlines()[2:]
        for path in cells(row.split("|")[1])
    }
    assert set(client.get("/openapi.json").json()["paths"]) <= named
    assert named - {"/v1/models/{name}"} <= {route.path for route in ROUTES}


def test_the_page_has_every_error_of_the_gateway() -> None:
    table = PAGE.split("| status | `code` | `type` | when |")[1].split("\n\n")[0]
    documented = {}
    for row in table.splitlines()[2:]:
        _start, status, codes, kind, *_rest = row.split("|")
        for code in cells(codes):
            documented[code] = {"status": int(status), "type": cells(kind).pop()}
    made = {
        code: {name: error[name] for name in ("status", "type")}
        for code, error in variables("vars")["__gateway_errors"].items()
    }
    assert documented == made
    assert set(made) - set(get_args(ErrorCode)) == set(get_args(GatewayCode))
    template = (ROLE / "templates/haproxy.cfg.j2").read_text(encoding="utf-8")
    used = set(re.findall(r"(?:error|refuse)\('(\w+)'", template))
    assert used == set(made)


def test_a_gateway_retries_where_the_service_would_be_asked_again() -> None:
    for code, error in variables("vars")["__gateway_errors"].items():
        must = error["status"] in (429, 503)
        assert ("retry_after" in error) == must, code


def test_both_refuse_the_same_headers_twice_and_know_the_same_ids() -> None:
    found = variables("vars")
    # the gateway removes what clients send by these names
    told = {name.decode() for name in ONCE if name.startswith(b"x-deepseek-")}
    assert "x-deepseek-" in found["__gateway_own_headers"]
    assert {name.decode() for name in ONCE} - told <= set(found["__gateway_single_headers"])
    marks = found["__gateway_id_marks"]
    for number in range(256):
        character = chr(number)
        allowed = character.isascii() and (character.isalnum() or character in marks)
        assert bool(ID.fullmatch(character)) == allowed
    assert variables("defaults")["gateway_max_request_bytes"] == LARGEST_BODY
