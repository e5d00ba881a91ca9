"""Embeddings, ranks and scores of an upstream whose model is an encoder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from support import MODEL, Authority, Token, refused, serve_app, upstream_settings
from upstream_server import error, in_front_of, value
from waiting import http_client, until

from deepseek_serving.http.json_spans import top_members

VECTOR = [0.25, -1.5]
EMBED: dict[str, Any] = {"model": MODEL, "input": ["What is a release?", "x"]}
RANK: dict[str, Any] = {"model": MODEL, "query": "a", "documents": ["b", {"text": "c"}]}
SCORE: dict[str, Any] = {"model": MODEL, "text_1": "a", "text_2": ["b", "c"]}
# by the task of the service in front
ASKS: dict[str, dict[str, dict[str, Any]]] = {
    "embed": {"/v1/embeddings": EMBED},
    "score": {
        "/v1/rerank": RANK,
        "/v2/rerank": RANK,
        "/rerank": RANK,
        "/v1/score": SCORE,
        "/score": SCORE,
    },
}
ALL = [(task, path) for task, asks in ASKS.items() for path in asks]


def made(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """An answer in vLLM's form."""
    named = {"id": "1", "model": body["model"]}
    if path == "/v1/embeddings":
        data: list[dict[str, Any]] = [
            {"index": index, "object": "embedding", "embedding": VECTOR}
            for index in range(len(body["input"]))
        ]
        usage = {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0}
        return {**named, "object": "list", "data": data, "usage": usage}
    if path == "/v1/rerank":
        results = [
            {"index": index, "document": {"text": text}, "relevance_score": 0.5}
            for index, text in enumerate(body["documents"])
        ]
        return {**named, "usage": {"total_tokens": 5}, "results": results}
    data = [{"index": 0, "object": "score", "score": 0.5}]
    return {**named, "object": "list", "data": data, "usage": {"prompt_tokens": 3}}


class EncoderServer:
    """An upstream that answers as the test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.ids: list[str] = []
        self.behave: Callable[[str, dict[str, Any]], Response] = self.usual
        paths = ("/v1/embeddings", "/v1/rerank", "/v1/score")
        self.app = Starlette(
            routes=[
                Route("/health", lambda _request: PlainTextResponse("")),
                *(Route(path, self._answer, methods=["POST"]) for path in paths),
            ]
        )

    def usual(self, path: str, body: dict[str, Any]) -> Response:
        return JSONResponse(made(path, body))

    async def _answer(self, request: Request) -> Response:
        path, body = request.url.path, await request.json()
        self.asked.append((path, body))
        self.ids.append(request.headers.get("x-request-id", ""))
        is_question = "Hello" in (body.get("input"), body.get("text_1"))
        return self.usual(path, body) if is_question else self.behave(path, body)


@pytest.fixture(scope="module")
def behind() -> Iterator[EncoderServer]:
    server = EncoderServer()
    with serve_app(server.app) as server.url:
        yield server


@pytest.fixture(scope="module")
def fronts(
    behind: EncoderServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, httpx.Client]]:
    folder = tmp_path_factory.mktemp("checkpoint")
    beyond = {"id": 100, "content": "<|beyond|>"}
    (folder / "config.json").write_text(json.dumps({"vocab_size": 100}))
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [beyond]}))
    with ExitStack() as stack:
        url = behind.url
        yield {
            task: stack.enter_context(
                http_client(stack.enter_context(in_front_of(url, folder, task=task)))
            )
            for task in ASKS
        }


@pytest.fixture(autouse=True)
def usual(behind: EncoderServer, fronts: dict[str, httpx.Client]) -> None:
    behind.behave = behind.usual
    # what the test before did may have raised doubts
    until(lambda: all(client.get("/readyz").status_code == 200 for client in fronts.values()))


@pytest.mark.parametrize(("task", "path"), ALL)
@pytest.mark.parametrize("name", [MODEL, "alias"])
def test_an_answer_comes_by_the_name_that_was_asked_for(
    fronts: dict[str, httpx.Client], behind: EncoderServer, task: str, path: str, name: str
) -> None:
    ask = {**ASKS[task][path], "model": name, "user": "ward-3"}
    reply = fronts[task].post(path, json=ask)
    assert reply.status_code == 200, reply.text
    to, body = behind.asked[-1]
    assert (to, body.pop("model")) == (f"/v1/{path.rpartition('/')[2]}", "behind")
    expected = {name: given for name, given in ask.items() if name not in ("model", "user")}
    if "documents" in expected:
        expected["documents"] = ["b", "c"]
    assert body == expected
    assert reply.json() == {**made(to, {**body, "model": name})}
    assert reply.headers["x-request-id"] == behind.ids[-1]


def test_openais_sdk_reads_vectors_in_both_forms(
    fronts: dict[str, httpx.Client], behind: EncoderServer
) -> None:
    url = str(fronts["embed"].base_url.join("v1"))
    with openai.OpenAI(base_url=url, api_key="-", max_retries=0) as client:
        answer = client.embeddings.create(**EMBED, encoding_format="float")
        assert [one.embedding for one in answer.data] == [VECTOR] * 2
        assert answer.usage.prompt_tokens == 7
        client.embeddings.create(**EMBED)
    assert behind.asked[-1][1]["encoding_format"] == "base64"


@pytest.mark.parametrize(
    ("task", "path", "more"),
    [
        ("embed", "/v1/embeddings", {"truncate_prompt_tokens": -1, "normalize": False}),
        ("embed", "/v1/embeddings", {"add_special_tokens": False, "dimensions": 2}),
        ("embed", "/v1/embeddings", {"input": [[1, 2], [3]]}),
        ("score", "/v1/rerank", {"top_n": 1, "return_documents": False, "max_tokens_per_doc": 9}),
        ("score", "/v1/rerank", {"truncate_prompt_tokens": -1, "use_activation": False}),
        ("score", "/v1/score", {"activation": True, "text_1": ["a", "b"]}),
    ],
)
def test_parameters_reach_the_upstream_unchanged(
    fronts: dict[str, httpx.Client],
    behind: EncoderServer,
    task: str,
    path: str,
    more: dict[str, Any],
) -> None:
    reply = fronts[task].post(path, json={**ASKS[task][path], **more})
    assert reply.status_code == 200, reply.text
    body = behind.asked[-1][1]
    assert {name: body[name] for name in more} == more


@pytest.mark.parametrize(
    ("task", "path", "more", "status", "param"),
    [
        ("embed", "/v1/embeddings", {"model": "other"}, 404, "model"),
        ("embed", "/v1/embeddings", {"input": [["1"]]}, 400, "input[0][0]"),
        ("embed", "/v1/embeddings", {"input": ["x"] * 2049}, 400, "input"),
        ("embed", "/v1/embeddings", {"input": [1, 100]}, 400, "input"),
        ("embed", "/v1/embeddings", {"input": "a <|beyond|>"}, 400, "input"),
        ("embed", "/v1/embeddings", {"priority": 1}, 400, "priority"),
        ("embed", "/v1/embeddings", {"cache_salt": "x"}, 400, "cache_salt"),
        ("score", "/v1/rerank", {"documents": []}, 400, "documents"),
        ("score", "/v1/rerank", {"documents": ["<|beyond|>"]}, 400, "documents"),
        ("score", "/v1/rerank", {"top_n": "1"}, 400, "top_n"),
        ("score", "/v1/score", {"text_1": ["a"] * 3}, 400, "text_1"),
        ("score", "/v1/score", {"text_2": ["<|beyond|>"]}, 400, "text_2"),
        ("score", "/v1/score", {"chat_template": "x"}, 400, "chat_template"),
    ],
)
def test_what_is_wrong_is_refused_before_the_upstream_is_asked(
    fronts: dict[str, httpx.Client],
    behind: EncoderServer,
    task: str,
    path: str,
    more: dict[str, Any],
    status: int,
    param: str,
) -> None:
    before = len(behind.asked)
    reply = fronts[task].post(path, json={**ASKS[task][path], **more})
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text
    assert len(behind.asked) == before


@pytest.mark.parametrize(
    ("task", "path"),
    [
        ("embed", "/v1/chat/completions"),
        ("embed", "/v1/score"),
        ("score", "/v1/embeddings"),
        ("score", "/v1/responses"),
    ],
)
def test_an_encoder_has_no_other_endpoints(
    fronts: dict[str, httpx.Client], task: str, path: str
) -> None:
    assert fronts[task].post(path, json={}).status_code == 404
    document = fronts[task].get("/openapi.json").json()
    assert path not in document["paths"]


def test_a_text_that_is_too_long_is_told_as_clients_know_it(
    fronts: dict[str, httpx.Client], behind: EncoderServer
) -> None:
    said = "This model's maximum context length is 512 tokens, but 600 were requested"
    behind.behave = lambda _path, _body: JSONResponse({"message": said}, 400)
    for task, path, param in (
        ("embed", "/v1/embeddings", "input"),
        ("score", "/v1/rerank", "documents"),
        ("score", "/v1/score", "text_2"),
    ):
        reply = fronts[task].post(path, json=ASKS[task][path])
        assert error(reply) == (400, "context_length_exceeded", said)
        assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("no JSON"),
        PlainTextResponse('{"data": [1, 2'),
        PlainTextResponse('{"data": []} {}'),
        JSONResponse([]),
        JSONResponse({"error": {"message": "out of memory at /opt/x"}}),
        JSONResponse({"message": "CUDA error"}, 500),
    ],
)
def test_an_answer_that_is_none_is_a_failure_of_the_engine(
    fronts: dict[str, httpx.Client], behind: EncoderServer, answer: Response
) -> None:
    behind.behave = lambda _path, _body: answer
    status, code, message = error(fronts["embed"].post("/v1/embeddings", json=EMBED))
    assert (status, code) == (502, "engine_unavailable")
    assert "memory" not in message


@pytest.mark.parametrize(
    ("task", "path", "tokens"),
    [("embed", "/v1/embeddings", 7), ("score", "/v1/rerank", 5), ("score", "/v1/score", 3)],
)
def test_tokens_are_counted_as_the_upstream_counts_them(
    fronts: dict[str, httpx.Client], task: str, path: str, tokens: int
) -> None:
    name = "deepseek_prompt_tokens_total"
    before = value(fronts[task], name)
    assert fronts[task].post(path, json=ASKS[task][path]).status_code == 200
    assert value(fronts[task], name) - before == tokens


@pytest.mark.parametrize(("section", "task"), [("embeddings", "embed"), ("rerank", "score")])
def test_two_encoders_for_the_same_requests_are_refused(
    tmp_path: Path,
    checkpoint_store: Path,
    token: Token,
    authority: Authority,
    section: str,
    task: str,
) -> None:
    more = f'[{section}]\ngraph = "/nowhere"'
    text = upstream_settings(checkpoint_store, token, authority, "http://127.0.0.1:1", more)
    status, log = refused(tmp_path, text + f'task = "{task}"\n')
    assert status == 78
    assert f"[{section}] and upstream.task = '{task}'" in log


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(max_size=6), JSON_VALUES, max_size=6),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_members_are_found_wherever_brackets_and_quotes_are(
    value: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    found = asyncio.run(top_members(data))
    assert {name: json.loads(part) for name, part in found.items()} == value
