"""The published document, and what the service does with whatever fits it or does not."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from support import Authority, Running

schema = schemathesis.pytest.from_fixture("document")


@pytest.fixture(scope="module")
def document(service: Running, authority: Authority) -> schemathesis.BaseSchema:
    with httpx.Client(base_url=service.url, verify=authority.client("gateway-1")) as client:
        raw = client.get("/openapi.json").json()
    return schemathesis.openapi.from_dict(raw)


def test_the_document_names_every_route(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    replies = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {"200", "400", "401", "429", "503", "504"} <= set(replies)
    assert "422" not in replies


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
    ],
)
def test_no_input_is_answered_with_a_server_error(
    case: schemathesis.Case, service: Running, authority: Authority
) -> None:
    certificate, key = authority.issue("gateway-1")
    reply = case.call(
        base_url=service.url, verify=str(authority.ca), cert=(str(certificate), str(key))
    )
    case.validate_response(reply, checks=[not_a_server_error])
    if reply.status_code >= 400 and reply.headers["content-type"] == "application/json":
        assert reply.json()["error"]["message"]
