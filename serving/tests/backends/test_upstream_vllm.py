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
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
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
        # what the test before refused may have taken it out, or be about to
        until(lambda: client.post(CHAT, json=ASK).status_code == 200)
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


def streamed(*events: dict[str, Any]) -> Response:
    lines = [*(f"data: {json.dumps(event)}\n\n" for event in events), "data: [DONE]\n\n"]
    return StreamingResponse(iter(lines), media_type="text/event-stream")


# words of vLLM 0.32 for each, and which of its parameters the client asked with
RECORDED: list[tuple[str, str | None, dict[str, Any], str, str]] = [
    ("n must be 1 when using greedy sampling, got 2.", None, {}, "n", "invalid_value"),
    ("stop cannot contain an empty string.", None, {}, "stop", "invalid_value"),
    (
        "repetition_penalty must be greater than zero, got 0.0.",
        None,
        {},
        "repetition_penalty",
        "invalid_value",
    ),
    (
        "thinking_token_budget is set but reasoning_config is not configured.",
        None,
        {},
        "thinking_token_budget",
        "invalid_value",
    ),
    (
        "top_p must be in (0, 1], got 2.0. (parameter=top_p, value=2.0)",
        "top_p",
        {},
        "top_p",
        "invalid_value",
    ),
    (
        'Grammar error: at 1(8): invalid regex "(["',
        None,
        {"guided_regex": "(["},
        "guided_regex",
        "invalid_json_schema",
    ),
    (
        "Invalid grammar specification: Failed to convert the grammar from GBNF to Lark",
        None,
        {"structured_outputs": {"grammar": 'root ::= "a'}},
        "structured_outputs",
        "invalid_json_schema",
    ),
    (
        "1 validation error:\n  {'type': 'literal_error', 'loc': 'body.reasoning_effort', "
        "'msg': \"Input should be 'none' or 'max'\", 'input': 'very'}",
        "body.reasoning_effort",
        {"reasoning_effort": "very"},
        "reasoning_effort",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(("message", "param", "sent", "named", "code"), RECORDED)
def test_its_words_name_the_clients_parameter(
    http: httpx.Client,
    engine: Engine,
    message: str,
    param: str | None,
    sent: Any,
    named: str,
    code: str,
) -> None:
    engine.refuse = lambda _path, _body: bad_request(message, param)
    error = http.post(CHAT, json={**ASK, **sent}).json()["error"]
    assert (error["param"], error["code"]) == (named, code)


def test_a_refusal_that_begins_a_stream_has_a_status_of_its_own(
    http: httpx.Client, engine: Engine
) -> None:
    """The status of a stream is sent before vLLM has looked at the request."""
    said = 'Grammar error: at 1(8): invalid regex "(["'
    refusal = {"message": said, "type": "BadRequestError", "param": None, "code": 400}
    asked = len(engine.asked)
    engine.refuse = lambda _path, body: streamed({"error": refusal}) if body.get("stream") else None
    for _attempt in range(5):
        reply = http.post(CHAT, json={**ASK, "stream": True, "guided_regex": "(["})
        error = reply.json()["error"]
        assert (reply.status_code, error["message"], error["param"]) == (400, said, "guided_regex")
    response = {"model": MODEL, "input": "?", "stream": True}
    assert http.post("/v1/responses", json=response).status_code == 400
    # it is the client's fault: nobody doubts the engine
    assert len(engine.asked) == asked
    assert http.get("/readyz").status_code == 200


def test_a_failure_that_begins_a_stream_is_the_engines(http: httpx.Client, engine: Engine) -> None:
    failure = {"message": "/srv is gone", "type": "InternalServerError", "code": 500}
    engine.refuse = lambda _path, _body: streamed({"error": failure})
    reply = http.post(CHAT, json={**ASK, "stream": True})
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "engine_unavailable")
    assert "/srv" not in reply.text


def test_thoughts_have_the_name_that_they_have_here(http: httpx.Client, engine: Engine) -> None:
    """They are `reasoning` alone to vLLM 0.32."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    message = {"role": "assistant", "content": "a", "reasoning": "hm"}
    engine.refuse = lambda _path, _body: JSONResponse(
        {**ANSWER, "choices": [{**choice, "message": message}]}
    )
    shown = http.post(CHAT, json=ASK).json()["choices"][0]["message"]
    assert shown == {**message, "reasoning_content": "hm"}
    engine.refuse = lambda _path, _body: streamed(
        {"choices": [{**choice, "finish_reason": None, "delta": {"reasoning": "hm"}}]},
        {"choices": [{**choice, "delta": {"content": "a"}}]},
    )
    lines = http.post(CHAT, json={**ASK, "stream": True}).text.splitlines()
    first = json.loads(next(filter(None, lines)).removeprefix("data: "))
    assert first["choices"][0]["delta"] == {"reasoning": "hm", "reasoning_content": "hm"}


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
