"""The published document, and what the service does with whatever fits it or does not."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from document import is_listed
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from support import Authority, Running
from waiting import http_client


@pytest.fixture(scope="module")
def document(service: Running, authority: Authority) -> schemathesis.BaseSchema:
    with http_client(service.url, verify=authority.client("gateway-1")) as client:
        raw = client.get("/openapi.json").json()
    return schemathesis.openapi.from_dict(raw)


def test_the_document_names_every_route_for_clients(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/health",
        "/healthz",
        "/tokenize",
        "/detokenize",
        "/version",
    }
    replies = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {"200", "400", "401", "429", "503", "504"} <= set(replies)
    assert "422" not in replies


@pytest.mark.parametrize(
    "route",
    [
        "POST /v1/chat/completions",
        "POST /v1/responses",
        "POST /v1/completions",
        "POST /tokenize",
        "POST /detokenize",
        "GET /v1/models",
        "GET /v1/models/{name}",
        "GET /health",
    ],
)
def test_what_the_document_admits_is_answered_or_refused_for_a_listed_reason(
    document: schemathesis.BaseSchema, service: Running, authority: Authority, route: str
) -> None:
    method, path = route.split()
    seen: set[int] = set()
    certificate, key = authority.issue("gateway-1")

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(case=document[path][method].as_strategy())
    def fuzz(case: Any) -> None:
        reply = case.call(
            base_url=service.url, verify=str(authority.ca), cert=(str(certificate), str(key))
        )
        seen.add(reply.status_code)
        case.validate_response(reply, checks=[not_a_server_error])
        if reply.status_code >= 400:
            error = reply.json()["error"]
            if reply.status_code == 400:
                assert is_listed(error["code"], error["message"], error["param"]), error

    fuzz()
    assert seen <= {200, 400, 404, 429}
