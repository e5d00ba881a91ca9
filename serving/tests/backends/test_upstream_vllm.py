"""An upstream that answers as vLLM does, and ones that know less: through real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from support import MODEL, Authority, Running, Token, free_port, serve, serve_app, upstream_settings
from waiting import http_client, until

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Weather?"}]}
CALL = {"id": "chatcmpl-tool-1", "type": "function", "function": {"name": "w", "arguments": "{}"}}
# fields that OpenAI's answers do not have
ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "behind",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "tool_calls": [CALL],
                "reasoning": "They ask for the weather.",
                "reasoning_content": "They ask for the weather.",
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
            "stop_reason": 151645,
            "token_ids": [5, 6],
        }
    ],
    "service_tier": None,
    "usage": {
        "prompt_tokens": 9,
        "total_tokens": 11,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 8},
    },
    "prompt_logprobs": [None, {"5": {"logprob": -0.1, "rank": 1, "decoded_token": "a"}}],
    "prompt_token_ids": [1, 2],
    "kv_transfer_params": None,
}
Refuse = Callable[[str, dict[str, Any]], Response | None]


def bad_request(message: str, param: str | None = None, status: int = 400) -> Response:
    """As vLLM says it."""
    error = {"message": message, "type": "BadRequestError", "param": param, "code": status}
    return JSONResponse({"error": error}, status)


class Engine:
    """Answers at once, unless it refuses."""

    def __init__(self, refuse: Refuse = lambda _path, _body: None) -> None:
        self.port = free_port()
        self.refuse = refuse
        self.asked: list[dict[str, Any]] = []
        self.heads: list[Any] = []
        answered = (CHAT, COMPLETION, "/tokenize", "/detokenize")
        paths = [Route(path, self._answer, methods=["POST"]) for path in answered]
        probes = [Route(path, self._alive) for path in ("/health", "/v1/models")]
        self.app = Starlette(routes=[*paths, *probes])

    async def _alive(self, _request: Request) -> Response:
        return PlainTextResponse("")

    async def _answer(self, request: Request) -> Response:
        body = json.loads(await request.body())
        refusal = self.refuse(request.url.path, body)
        if refusal is not None:
            return refusal
        self.asked.append(body)
        self.heads.append(request.headers)
        return JSONResponse(ANSWER)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine()
    with serve_app(made.app, made.port):
        yield made


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint_store: Path,
    token: Token,
    authority: Authority,
    engine: Engine,
) -> Iterator[Running]:
    url = f"http://127.0.0.1:{engine.port}"
    text = upstream_settings(checkpoint_store, token, authority, url) + 'media = ["image"]\n'
    with serve(tmp_path_factory.mktemp("front"), text) as running:
        yield running


@pytest.fixture
def http(front: Running, authority: Authority, engine: Engine) -> Iterator[httpx.Client]:
    engine.refuse = lambda _path, _body: None
    with http_client(front.url, verify=authority.client("gateway-1")) as client:
        # what the test before refused may have taken it out
        until(lambda: client.get("/readyz").status_code == 200)
        yield client


def test_all_that_it_says_reaches_the_client_in_our_releases_name(http: httpx.Client) -> None:
    reply = http.post(CHAT, json=ASK)
    assert reply.status_code == 200
    said = reply.json()
    assert len(said.pop("system_fingerprint")) == 12
    assert said == {**ANSWER, "model": MODEL}


def test_an_agents_whole_request_reaches_it(http: httpx.Client, engine: Engine) -> None:
    sent = {
        "tools": [{"type": "function", "function": {"name": "w", "parameters": {}}}],
        "response_format": {"type": "json_object"},
        "logprobs": True,
        "top_logprobs": 20,
        "n": 2,
        "chat_template_kwargs": {"enable_thinking": False},
        "min_tokens": 1,
    }
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "?"}, image]}]
    assert http.post(CHAT, json={**ASK, **sent, "messages": messages}).status_code == 200
    asked = engine.asked[-1]
    del asked["cache_salt"]
    assert asked == {"model": "behind", "messages": messages, **sent}


def test_clients_share_no_cached_prompt_and_choose_no_salt(
    http: httpx.Client, engine: Engine
) -> None:
    def salt(client: str, path: str = CHAT) -> str:
        body = ASK if path == CHAT else {"model": MODEL, "prompt": "?"}
        assert http.post(path, json=body, headers={"x-deepseek-client": client}).status_code == 200
        found: str = engine.asked[-1]["cache_salt"]
        return found

    assert salt("192.0.2.1") == salt("192.0.2.1") == salt("192.0.2.1", COMPLETION)
    assert len({salt("192.0.2.1"), salt("192.0.2.2"), salt("")}) == 3
    reply = http.post(CHAT, json={**ASK, "cache_salt": salt("192.0.2.1")})
    assert reply.json()["error"]["param"] == "cache_salt"


def test_it_knows_requests_by_our_ids(http: httpx.Client, engine: Engine) -> None:
    headers = {"x-request-id": "ours", "x-client-request-id": "theirs", "authorization": "Bearer x"}
    reply = http.post(CHAT, json={**ASK, "request_id": "theirs"}, headers=headers)
    assert reply.headers["x-request-id"] == engine.heads[-1]["x-request-id"] == "ours"
    assert "theirs" not in str(engine.heads[-1])
    assert "authorization" not in engine.heads[-1]
    assert "request_id" not in engine.asked[-1]


@pytest.mark.parametrize(
    ("refusal", "status", "code", "param"),
    [
        (
            bad_request("This model's maximum context length is 4096 tokens.", "input_tokens"),
            400,
            "context_length_exceeded",
            "messages",
        ),
        (bad_request("min_tokens must be lower", "min_tokens"), 400, "invalid_value", "min_tokens"),
        (bad_request("of no parameter"), 400, "invalid_value", None),
        (bad_request("of a long one", "x" * 65), 400, "invalid_value", None),
        (bad_request("The model `behind` does not exist.", status=404), 502, None, None),
        (bad_request("EngineCore encountered an issue.", status=500), 502, None, None),
        (bad_request("not implemented", status=501), 502, None, None),
    ],
)
def test_what_it_refuses_is_refused_with_its_parameter(
    http: httpx.Client, engine: Engine, refusal: Response, status: int, code: Any, param: Any
) -> None:
    engine.refuse = lambda _path, _body: refusal
    reply = http.post(CHAT, json=ASK)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param)
    assert error["code"] == (code or "engine_unavailable")
    assert ("The engine failed to answer." in error["message"]) == (code is None)


def unknown_parameters(_path: str, body: dict[str, Any]) -> Response | None:
    """As `transformers serve` says it."""
    unexpected = set(body) - {"model", "messages", "prompt", "max_tokens", "stream"}
    return JSONResponse({"detail": f"Unexpected keys: {unexpected}"}, 422) if unexpected else None


def system_first(_path: str, body: dict[str, Any]) -> Response | None:
    if "messages" in body and body["messages"][0]["role"] != "system":
        return bad_request("A conversation begins with a system message")
    return None


def no_chat(path: str, _body: dict[str, Any]) -> Response | None:
    return bad_request("the template renders nothing") if path == CHAT else None


@pytest.mark.parametrize(
    ("refuse", "path", "is_salted"),
    [
        (unknown_parameters, CHAT, False),
        (system_first, CHAT, True),
        (no_chat, COMPLETION, True),
        (
            lambda path, body: no_chat(path, body) or unknown_parameters(path, body),
            COMPLETION,
            False,
        ),
    ],
)
def test_it_is_ready_once_it_answers_some_question(
    tmp_path: Path,
    checkpoint_store: Path,
    token: Token,
    authority: Authority,
    refuse: Refuse,
    path: str,
    *,
    is_salted: bool,
) -> None:
    engine = Engine(refuse)
    text = upstream_settings(checkpoint_store, token, authority, f"http://127.0.0.1:{engine.port}")
    body = (
        {"prompt": "?"}
        if path == COMPLETION
        else {"messages": [{"role": "system", "content": "!"}, *ASK["messages"]]}
    )
    with (
        serve_app(engine.app, engine.port),
        serve(tmp_path, text) as running,
        http_client(running.url, verify=authority.client("gateway-1")) as http,
    ):
        assert http.get("/readyz").status_code == 200
        assert http.post(path, json={"model": MODEL, **body}).status_code == 200
        assert ("cache_salt" in engine.asked[-1]) == is_salted
        log = running.log.read_text(encoding="utf-8")
        assert ("does not take cache_salt" in log) != is_salted


def test_it_tells_tokens_and_texts(http: httpx.Client, engine: Engine) -> None:
    told = {"count": 2, "max_model_len": 4096, "tokens": [1, 2], "token_strs": None}
    engine.refuse = lambda _path, _body: JSONResponse(told)
    for body in ({"prompt": "Hello"}, {"model": MODEL, "messages": ASK["messages"]}):
        reply = http.post("/tokenize", json=body)
        assert (reply.status_code, reply.json()) == (200, told)
    engine.refuse = lambda _path, body: JSONResponse({"prompt": str(body)})
    reply = http.post("/detokenize", json={"tokens": [1, 2], "model": None})
    assert reply.json() == {"prompt": str({"tokens": [1, 2], "model": "behind"})}
    assert http.post("/detokenize", json={"tokens": [2**20]}).json()["error"]["param"] == "tokens"
    assert http.post("/tokenize", json={"model": "x", "prompt": ""}).status_code == 404
    assert http.post("/tokenize", json=[]).status_code == 400
    engine.refuse = lambda _path, _body: PlainTextResponse("Not Found", 404)
    reply = http.post("/tokenize", json={"prompt": "Hello"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    engine.refuse = lambda _path, _body: PlainTextResponse("no JSON")
    assert http.post("/tokenize", json={"prompt": "Hello"}).status_code == 502
