"""Clients that cannot be told a model's name ask for one of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from support import MODEL, serve_app
from test_faults import Hanging
from waiting import http_client

from deepseek_serving.backends.local import Service
from deepseek_serving.generation.scheduler import Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.settings import ModelSettings
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

ALIASES = ("gpt-4o", "deepseek-ai/DeepSeek-R1:latest")


@pytest.fixture(scope="module")
def named(graph: Path) -> Iterator[httpx.Client]:
    scheduler = Scheduler(Hanging())
    scheduler.start()
    release = Release(MODEL, "1", "0" * 64, graph)
    service = Service(release, scheduler, ChatTokenizer(graph), aliases=ALIASES)
    with serve_app(create_app(service)) as url, http_client(url) as client:
        yield client
    scheduler.stop()


@pytest.mark.parametrize("name", [MODEL, *ALIASES])
def test_a_model_answers_to_each_of_its_names(named: httpx.Client, name: str) -> None:
    body = {"model": name, "prompt": [5], "max_tokens": 1}
    reply = named.post("/v1/completions", json=body)
    assert reply.json()["model"] == name
    streamed = named.post("/v1/completions", json={**body, "stream": True}).text
    assert f'"model":"{name}"' in streamed
    # what it really was
    assert reply.headers["x-deepseek-release"].startswith(f"{MODEL}/1@")
    assert named.post("/tokenize", json={"model": name, "prompt": "a"}).status_code == 200
    card = named.get(f"/v1/models/{name}").json()
    assert (card["id"], card["root"]) == (name, MODEL)
    assert card["parent"] == (None if name == MODEL else MODEL)


def test_a_model_answers_to_the_name_of_another_where_a_gateway_says_so(
    named: httpx.Client,
) -> None:
    body = {"model": "another", "prompt": [5], "max_tokens": 1}

    def ask(model: str) -> httpx.Response:
        headers = {"x-deepseek-fallback": model} if model else {}
        return named.post("/v1/completions", json=body, headers=headers)

    assert [ask(model).status_code for model in (MODEL, "", "other", MODEL)] == [200, 404, 404, 200]
    assert ask(MODEL).json()["model"] == "another"
    twice = [("x-deepseek-fallback", MODEL), ("x-deepseek-fallback", "another")]
    refused = named.post("/v1/completions", json=body, headers=twice)
    assert refused.json()["error"]["code"] == "duplicate_header"


def test_all_names_are_listed_and_in_the_document(named: httpx.Client) -> None:
    assert [card["id"] for card in named.get("/v1/models").json()["data"]] == [MODEL, *ALIASES]
    schemas = named.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["ChatRequest"]["properties"]["model"]["enum"] == [MODEL, *ALIASES]


@pytest.mark.parametrize("alias", ["", "two words", "-x", "a" * 129, "a\n"])
def test_what_is_no_name_is_refused_as_a_setting(alias: str) -> None:
    with pytest.raises(ValidationError, match="aliases"):
        ModelSettings(
            store=Path("/s"), name="m", version="1", public_key=Path("/k"), aliases=[alias]
        )
