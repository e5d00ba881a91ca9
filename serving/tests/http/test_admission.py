"""Requests that generate go past the framework; nobody is to notice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import MODEL, serve_app
from test_faults import ASK, CHAT, Hanging
from waiting import http_client

from deepseek_serving.backends.local import Service
from deepseek_serving.generation.scheduler import Scheduler
from deepseek_serving.http.admission import LARGEST_BODY
from deepseek_serving.http.app import create_app
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

JSON = "application/json"
# the framework takes this for JSON too; the short way is not for it
FRAMEWORK = "application/json; charset=utf-8"
WORD = 5


@pytest.fixture(scope="module")
def tokenizer(graph: Path) -> ChatTokenizer:
    return ChatTokenizer(graph)


@pytest.fixture
def service(graph: Path, tokenizer: ChatTokenizer) -> Iterator[Service]:
    scheduler = Scheduler(Hanging())
    scheduler.start()
    yield Service(Release(MODEL, "1", "0" * 64, graph), scheduler, tokenizer)
    scheduler.stop()


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with serve_app(create_app(service)) as url, http_client(url) as client:
        yield client


def both(client: httpx.Client, path: str, content: bytes) -> list[tuple[Any, ...]]:
    """What the short way makes of a body, and what the framework does."""
    seen = []
    for kind in (JSON, FRAMEWORK):
        reply = client.post(path, content=content, headers={"content-type": kind})
        own = {"date", "x-request-id"}
        headers = {name: value for name, value in reply.headers.items() if name not in own}
        body = json.loads(reply.content)
        for changes in ("id", "created"):
            body.pop(changes, None)
        seen.append((reply.status_code, headers, body))
    return seen


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (CHAT, json.dumps({**ASK, "max_tokens": 3}).encode(), 200),
        (
            "/v1/completions",
            json.dumps({"model": MODEL, "prompt": [WORD], "max_tokens": 1}).encode(),
            200,
        ),
        (CHAT, json.dumps({**ASK, "model": "another"}).encode(), 404),
        (CHAT, json.dumps({**ASK, "temperature": 9}).encode(), 400),
        (CHAT, json.dumps({**ASK, "unheard_of": 1}).encode(), 400),
        (CHAT, json.dumps({**ASK, "messages": [{"role": "user"}]}).encode(), 400),
        (CHAT, b"{", 400),
        (CHAT, b"null", 400),
        (CHAT, b"", 400),
        (CHAT, b"\xff\xfe{", 400),
        (CHAT, b"[" * 100_000, 400),
    ],
)
def test_either_way_says_the_same(
    client: httpx.Client, path: str, body: bytes, status: int
) -> None:
    direct, framework = both(client, path, body)
    assert direct == framework
    assert direct[0] == status


@pytest.mark.parametrize("kind", [JSON, FRAMEWORK])
def test_a_body_in_pieces(client: httpx.Client, kind: str) -> None:
    data = json.dumps({**ASK, "max_tokens": 2}).encode()
    headers = {"content-type": kind}
    pieces = (data[place : place + 7] for place in range(0, len(data), 7))
    assert client.post(CHAT, content=pieces, headers=headers).status_code == 200
    wrong = (piece for piece in (b'{"mod', b'el": 1}'))
    assert client.post(CHAT, content=wrong, headers=headers).json()["error"]["param"] == "model"


@pytest.mark.parametrize("kind", [JSON, FRAMEWORK])
def test_a_body_without_a_length_is_bounded(client: httpx.Client, kind: str) -> None:
    pieces = (b" " * 2**16 for _piece in range(LARGEST_BODY // 2**16 + 1))
    reply = client.post(CHAT, content=pieces, headers={"content-type": kind})
    assert reply.status_code == 413
    assert "The request body is larger than" in reply.json()["error"]["message"]


@pytest.mark.parametrize("kind", [JSON, FRAMEWORK])
def test_an_error_that_nobody_foresaw(
    service: Service, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def fail(*_given: object, **_named: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(service.requests, "chat", fail)
    reply = client.post(CHAT, json=ASK, headers={"content-type": kind})
    assert reply.status_code == 500
    assert reply.json()["error"]["message"] == "The service failed."
    assert "x-request-id" in reply.headers


def test_the_routes_answer_nothing_but_post(client: httpx.Client) -> None:
    reply = client.get(CHAT)
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST"
