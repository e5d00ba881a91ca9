"""docs/reference/metrics.md names exactly the metrics that a service has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from support import Authority, Token, serve, serve_app, upstream_settings
from waiting import http_client

from deepseek_serving.metrics import KeyState
from deepseek_serving.policy.keys import KeyRing

REFERENCE = Path(__file__).parents[2] / "docs/reference/metrics.md"
ALL, KEYS, ENGINE, UPSTREAM = (
    "Every worker has these:",
    "With API keys:",
    "With an engine of its own (not with an upstream):",
    "With an upstream:",
)


def documented(*tables: str) -> dict[str, str]:
    """Type by name, of the tables that follow these sentences."""
    found: dict[str, str] = {}
    for table in tables:
        text = REFERENCE.read_text(encoding="utf-8").split(f"\n{table}\n\n")[1].split("\n\n")[0]
        rows = re.findall(r"^\| `(deepseek_\w+)` \| (\w+) \|", text, re.MULTILINE)
        assert rows
        found.update(rows)
    return found


def names(families: Iterable[Metric]) -> dict[str, str]:
    """Type by the name that Prometheus shows, of families as the client library has them."""
    suffixes = {"counter": "_total", "info": "_info"}
    return {
        family.name + suffixes.get(family.type, ""): family.type
        for family in families
        if family.name.startswith("deepseek_") and not family.name.endswith("_created")
    }


def exposed(client: httpx.Client) -> dict[str, str]:
    text = client.get("/metrics").text
    # The text format has no type for an info metric: it is a gauge whose name ends so.
    return {
        name: "info" if name.endswith("_info") else kind
        for name, kind in names(text_string_to_metric_families(text)).items()
    }


def test_a_service_with_an_engine(client: httpx.Client) -> None:
    assert exposed(client) == documented(ALL, ENGINE)


def test_a_service_with_an_upstream(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}}
    answer = {"id": "1", "created": 1, "model": "behind", "choices": [choice]}
    app = Starlette(
        routes=[
            Route("/health", lambda _request: PlainTextResponse("")),
            Route("/v1/models", lambda _request: JSONResponse({"data": [{"id": "behind"}]})),
            Route("/v1/chat/completions", lambda _request: JSONResponse(answer), methods=["POST"]),
        ]
    )
    with (
        serve_app(app) as url,
        serve(tmp_path, upstream_settings(checkpoint_store, token, authority, url)) as running,
        http_client(running.url, verify=authority.client("gateway-1")) as client,
    ):
        assert exposed(client) == documented(ALL, UPSTREAM)


def test_api_keys() -> None:
    class Ring:
        in_force = 1
        seconds_broken = 0.0

    ring: Any = Ring()
    assert names(KeyState(cast(KeyRing, ring)).collect()) == documented(KEYS)


def test_a_metric_that_is_not_documented_is_noticed(client: httpx.Client) -> None:
    with pytest.raises(AssertionError):
        assert exposed(client) == documented(ALL)
