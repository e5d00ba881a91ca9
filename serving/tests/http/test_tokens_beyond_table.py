"""A token that the model has no weights for is refused on every path, by number or as text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import CHECKPOINT, MODEL, serve_app
from tokenizers import AddedToken, Tokenizer
from waiting import http_client

from deepseek_serving.backends.local import Service
from deepseek_serving.export.exporter import export
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.runtime.question import Question
from deepseek_serving.text.known_tokens import KnownTokens
from deepseek_serving.text.tokenizer import ChatTokenizer, TextIsData
from deepseek_serving.trust.release import Release

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def padded(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped graph with a tokenizer that has a token more than the graph's table."""
    folder = tmp_path_factory.mktemp("padded") / "graph"
    shutil.copytree(graph, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|pad|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert tokenizer.token_to_id("<|pad|>") == 1024
    return folder


@pytest.fixture(scope="module")
def http(padded: Path, request: pytest.FixtureRequest) -> Iterator[tuple[httpx.Client, Service]]:
    text_is_data: TextIsData = getattr(request, "param", "chat")
    engine = OnnxRuntimeEngine(padded, threads=1, slots=2)
    scheduler = Scheduler(engine, Limits(), question=Question.learn(engine, 1024))
    service = Service(
        Release(MODEL, "1", "0" * 64, padded), scheduler, ChatTokenizer(padded, text_is_data)
    )
    scheduler.start()
    with serve_app(create_app(service)) as url, http_client(url) as client:
        yield client, service


TURN = {"role": "user", "content": "What is <|pad|>?"}


HELLO = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {"messages": [TURN]}, "messages"),
        ("chat/completions", {"messages": [TURN], "stream": True}, "messages"),
        ("chat/completions", {"messages": [TURN], "prompt_logprobs": 0}, "messages"),
        ("chat/completions", {"messages": [{**TURN, "role": "system"}, HELLO]}, "messages"),
        ("chat/completions", {"messages": [HELLO], "logit_bias": {"1024": 1}}, "logit_bias"),
        ("chat/completions", {"messages": [HELLO], "stop_token_ids": [1024]}, "stop_token_ids"),
        ("responses", {"input": "What is <|pad|>?"}, "input"),
        ("responses", {"input": "x", "instructions": "Say <|pad|>."}, "input"),
        ("completions", {"prompt": "x", "logit_bias": {"70000": 1}}, "logit_bias"),
        ("completions", {"prompt": "x", "stop_token_ids": [2, 70000]}, "stop_token_ids"),
        ("completions", {"prompt": [5, 1024], "echo": True, "max_tokens": 0}, "prompt"),
        ("completions", {"prompt": [5, 1024], "prompt_logprobs": 1}, "prompt"),
        ("completions", {"prompt": "<|pad|>"}, "prompt"),
        ("completions", {"prompt": ["good", "and <|pad|>"]}, "prompt"),
        ("completions", {"prompt": [5, 1024]}, "prompt"),
        ("completions", {"prompt": [[5], [70000]]}, "prompt"),
    ],
)
@pytest.mark.parametrize("http", ["never", "chat", "always"], indirect=True, scope="module")
def test_a_token_beyond_the_table_is_refused_on_every_path(
    http: tuple[httpx.Client, Service], path: str, body: dict[str, Any], param: str
) -> None:
    client, service = http
    reply = client.post(f"/v1/{path}", json={"model": MODEL, **body})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param
    assert service.healthy
    good = {"model": MODEL, "messages": [HELLO], "max_tokens": 2}
    assert client.post(CHAT, json=good).status_code == 200


def test_tokens_that_the_tokenizer_has_are_told_with_their_text(
    http: tuple[httpx.Client, Service],
) -> None:
    client, _service = http
    asked = {"model": MODEL, "messages": [TURN]}
    assert "'<|pad|>'" in client.post(CHAT, json=asked).json()["error"]["message"]
    reply = client.post("/tokenize", json={"prompt": "<|pad|>", "add_special_tokens": False})
    assert reply.json()["tokens"] == [1024]
    assert client.post("/tokenize", json=asked).status_code == 400
    assert client.post("/detokenize", json={"tokens": [1024]}).status_code == 400


def test_a_request_that_the_engine_fails_is_told_so(
    http: tuple[httpx.Client, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, service = http
    # as if the check did not know of it
    monkeypatch.setattr(service.requests, "_known", KnownTokens())
    reply = client.post("/v1/completions", json={"model": MODEL, "prompt": [5, 4000]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "generation_failed")
    body = {"model": MODEL, "prompt": [5, 4000], "stream": True}
    events = [line for line in client.post("/v1/completions", json=body).text.splitlines() if line]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "generation_failed"
    assert service.healthy
    assert client.post("/v1/completions", json={"model": MODEL, "prompt": "x"}).status_code == 200


def test_the_export_says_which_tokens_have_no_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, checkpoint)
    export(checkpoint, tmp_path / "one")
    assert not caplog.records
    path = checkpoint / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    added = {**tokenizer["added_tokens"][0], "id": 1024, "content": "<|pad|>"}
    tokenizer["added_tokens"].append(added)
    path.write_text(json.dumps(tokenizer))
    export(checkpoint, tmp_path / "two")
    assert "tokens 0 to 1023, the tokenizer also has '<|pad|>' (1024)" in caplog.text
