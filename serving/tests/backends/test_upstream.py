"""Another server behind ours: what is passed on, what is not, and what happens when it fails.

The server behind is a real one on a real socket; only what it says is made up.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from support import (
    MODEL,
    VERSION,
    Authority,
    Running,
    Token,
    free_port,
    refused,
    serve,
    serve_app,
    upstream_settings,
)
from waiting import PATIENCE, http_client, until

from deepseek_serving.backends.outcomes import Outcomes
from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.validation import ReadForwarded
from deepseek_serving.policy import keys
from deepseek_serving.text.known_tokens import KnownTokens

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is a release?"}],
}
USAGE = {"prompt_tokens": 17, "completion_tokens": 3, "total_tokens": 20}
WORDS = ("A", " signed", " checkpoint")

Behaviour = Callable[[dict[str, Any]], Response | Awaitable[Response]]


def _chunk(choices: list[dict[str, Any]], **more: Any) -> str:
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "behind"}
    return f"data: {json.dumps({**body, 'choices': choices, **more})}\n\n"


def _delta(content: str, finish: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]


def _events(*, done: bool = True, finish: str | None = "stop") -> list[str]:
    events = [_chunk(_delta(word)) for word in WORDS]
    if finish:
        events.append(_chunk(_delta("", finish)))
        events.append(_chunk([], usage=USAGE))
    return [*events, "data: [DONE]\n\n"] if done else events


def _whole(body: dict[str, Any]) -> Response:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1}
    return JSONResponse({**answer, "model": body["model"], "choices": [choice], "usage": USAGE})


def _stream(events: list[str]) -> Response:
    async def some() -> AsyncIterator[str]:
        for event in events:
            yield event

    return StreamingResponse(some(), media_type="text/event-stream")


def _usual(body: dict[str, Any]) -> Response:
    return _stream(_events()) if body.get("stream") else _whole(body)


class Behind:
    """The server behind: it does as the test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.port = free_port()
        self.behave: Behaviour = _usual
        self.asked: list[dict[str, Any]] = []
        self.running = 0
        self.key = ""
        # whatever becomes of requests, so that they take readiness from no other test
        self.answers_questions = False
        self.app = Starlette(
            routes=[
                Route("/health", lambda _request: PlainTextResponse("")),
                Route("/v1/models", self._models),
                Route(CHAT, self._answer, methods=["POST"]),
                Route("/v1/completions", self._answer, methods=["POST"]),
            ]
        )

    def _is_open_to(self, request: Request) -> bool:
        return not self.key or request.headers.get("authorization") == f"Bearer {self.key}"

    def _models(self, request: Request) -> Response:
        if not self._is_open_to(request):
            return JSONResponse({"error": "Unauthorized"}, 401)
        return JSONResponse({"data": [{"id": "behind", "max_model_len": 4096}]})

    async def _answer(self, request: Request) -> Response:
        if not self._is_open_to(request):
            return JSONResponse({"error": "Unauthorized"}, 401)
        body = await request.json()
        self.asked.append(body)
        if body["model"] != "behind":
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        if self.answers_questions and body.get("max_tokens") == 1 and "messages" in body:
            return _usual(body)
        answer = self.behave(body)
        return answer if isinstance(answer, Response) else await answer

    async def slow(self, body: dict[str, Any]) -> Response:
        """Words without end, or an answer that takes longer than it may."""

        async def words() -> AsyncIterator[str]:
            self.running += 1
            try:
                while True:
                    yield _chunk(_delta("word "))
                    await asyncio.sleep(0.01)
            finally:
                self.running -= 1

        if body.get("stream"):
            return StreamingResponse(words(), media_type="text/event-stream")
        await asyncio.sleep(3)
        return _whole(body)


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    server = Behind()
    server.answers_questions = True
    with serve_app(server.app, server.port):
        yield server


@pytest.fixture(autouse=True)
def usual(behind: Behind) -> Iterator[None]:
    yield
    behind.behave = _usual


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint_store: Path,
    token: Token,
    authority: Authority,
    behind: Behind,
) -> Iterator[Running]:
    url = f"http://127.0.0.1:{behind.port}"
    text = upstream_settings(checkpoint_store, token, authority, url)
    text += "concurrency = 2\nqueue = 1\n"
    with serve(tmp_path_factory.mktemp("front"), text) as running:
        yield running


@pytest.fixture
def http(front: Running, authority: Authority) -> Iterator[httpx.Client]:
    with http_client(front.url, verify=authority.client("gateway-1")) as client:
        yield client


@pytest.fixture
def sdk(front: Running, authority: Authority) -> Iterator[openai.OpenAI]:
    context = authority.client("gateway-1")
    with (
        httpx2.Client(verify=context) as transport,
        openai.OpenAI(
            base_url=f"{front.url}/v1", api_key="-", http_client=transport, max_retries=0
        ) as client,
    ):
        yield client


def value(http: httpx.Client, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(http.get("/metrics").text)
    samples = [s for family in families for s in family.samples if s.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def error(reply: httpx.Response) -> tuple[int, str | None, str]:
    body = reply.json()["error"]
    return reply.status_code, body["code"], body["message"]


def test_an_answer_comes_in_our_releases_name(
    sdk: openai.OpenAI, behind: Behind, checkpoint_store: Path
) -> None:
    reply = sdk.chat.completions.with_raw_response.create(**ASK, temperature=0, seed=7)
    answer = reply.parse()
    assert answer.choices[0].message.content == "".join(WORDS)
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.total_tokens == 20
    (folder,) = (checkpoint_store / "checkpoint" / MODEL).iterdir()
    assert reply.headers["x-deepseek-release"] == f"{MODEL}/{VERSION}@{folder.name[:12]}"
    assert answer.system_fingerprint == folder.name[:12]
    asked = behind.asked[-1]
    assert re.fullmatch("[0-9a-f]{64}", asked.pop("cache_salt"))
    assert asked == {**ASK, "model": "behind", "temperature": 0, "seed": 7}


def test_a_stream_is_passed_on_and_counted(sdk: openai.OpenAI, behind: Behind) -> None:
    chunks = list(sdk.chat.completions.create(**ASK, stream=True))
    assert [c.choices[0].delta.content for c in chunks] == [*WORDS, ""]
    assert {c.model for c in chunks} == {MODEL}
    assert all(c.usage is None for c in chunks)
    assert behind.asked[-1]["stream_options"] == {"include_usage": True}
    asked = list(
        sdk.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    )
    assert asked[-1].usage is not None
    assert asked[-1].usage.completion_tokens == 3


def test_a_server_that_does_not_say_done_is_understood(http: httpx.Client, behind: Behind) -> None:
    behind.behave = lambda _body: _stream(_events(done=False))
    assert http.post(CHAT, json={**ASK, "stream": True}).text.endswith("data: [DONE]\n\n")


def test_tokens_come_as_they_are_generated(http: httpx.Client, behind: Behind) -> None:
    behind.behave = behind.slow
    with http.stream("POST", CHAT, json={**ASK, "stream": True}) as reply:
        lines = reply.iter_lines()
        assert "word " in next(lines)
        until(lambda: behind.running == 1)
    # and the one behind stops when our client is gone
    until(lambda: behind.running == 0)
    until(lambda: value(http, "deepseek_slots_busy") == 0)


def test_a_client_that_hangs_up_before_the_answer_ends_it(
    http: httpx.Client, behind: Behind
) -> None:
    behind.behave = behind.slow
    with pytest.raises(httpx.ReadTimeout):
        http.post(CHAT, json=ASK, timeout=httpx.Timeout(PATIENCE, read=0.3))
    until(lambda: value(http, "deepseek_http_requests_total", status="499") == 1)
    until(lambda: value(http, "deepseek_slots_busy") == 0)


def test_the_metrics_have_the_usual_names(http: httpx.Client) -> None:
    names = {
        "prompt": "deepseek_prompt_tokens_total",
        "answer": "deepseek_generation_tokens_total",
        "ttft": "deepseek_time_to_first_token_seconds_count",
        "e2e": "deepseek_e2e_request_latency_seconds_count",
    }
    before = {short: value(http, name) for short, name in names.items()}
    http.post(CHAT, json={**ASK, "stream": True})
    http.post(CHAT, json=ASK)
    after = {short: value(http, name) for short, name in names.items()}
    grown = {short: after[short] - before[short] for short in names}
    assert grown == {"prompt": 34, "answer": 6, "ttft": 1, "e2e": 2}
    assert value(http, "deepseek_ready") == 1
    assert value(http, "deepseek_slots") == 2


# what clients look for comes first, whatever the upstream says
FIRST = "This model's maximum context length is 4096 tokens. However, "
TOO_LONG = [
    (f"{FIRST}you requested 5000 tokens.", f"{FIRST}you requested 5000 tokens."),
    *(
        (told, FIRST + told)
        for told in (
            "You passed 5000 input tokens. However, the model's context length is only 4096 tokens",
            "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
            "the request exceeds the available context size",
        )
    ),
]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "too long"}}, (400, "invalid_value", "too long")),
        (422, {"detail": "no such field"}, (400, "invalid_value", "no such field")),
        (400, {"message": "plain"}, (400, "invalid_value", "plain")),
        *(
            (400, {"error": {"message": told}}, (400, "context_length_exceeded", shown))
            for told, shown in TOO_LONG
        ),
        (
            429,
            {"error": {"message": "busy"}},
            (429, "queue_full", "The engine has too much to do; try again later."),
        ),
        *(
            (status, {"error": {"message": "/opt/secret/path"}}, (502, None, None))
            for status in (301, 401, 403, 404, 500, 400 + 51)
        ),
        (503, {}, (503, None, None)),
        (400, {}, (502, None, None)),
    ],
)
def test_refusals_of_the_server_behind(
    http: httpx.Client, behind: Behind, status: int, body: dict[str, Any], expected: Any
) -> None:
    behind.behave = lambda _body: JSONResponse(body, status)
    for stream in (False, True):
        reply = http.post(CHAT, json={**ASK, "stream": stream})
        got = error(reply)
        if expected[1] is None:
            unavailable = "engine_unavailable", "The engine failed to answer."
            assert got == (expected[0], *unavailable)
        else:
            assert got == expected
        assert "secret" not in reply.text
        assert ("retry-after" in reply.headers) == (got[0] in (429, 503))


@pytest.mark.parametrize(
    "answer",
    [
        lambda: PlainTextResponse("no JSON"),
        lambda: JSONResponse([1]),
        lambda: Response(b'{"choices": [', headers={"content-length": "50"}),
    ],
)
def test_an_answer_that_is_none(http: httpx.Client, behind: Behind, answer: Any) -> None:
    behind.behave = lambda _body: answer()
    broken = "The engine broke off before its answer was complete."
    assert error(http.post(CHAT, json=ASK)) == (502, "engine_unavailable", broken)


@pytest.mark.parametrize(
    "events",
    [
        _events(done=False, finish=None),
        _events(finish=None),
        [*_events(done=False, finish=None), 'data: {"error": {"message": "/opt/secret"}}\n\n'],
        ["data: no JSON\n\n"],
        ["data: [1]\n\n"],
        [],
    ],
)
def test_a_stream_that_breaks_off_ends_with_an_error(
    http: httpx.Client, behind: Behind, events: list[str]
) -> None:
    behind.behave = lambda _body: _stream(events)
    before = value(http, "deepseek_generations_total", reason="error")
    reply = http.post(CHAT, json={**ASK, "stream": True})
    assert reply.status_code == 200
    last = json.loads(reply.text.strip().splitlines()[-1].removeprefix("data: "))
    assert last["error"]["message"] == "The engine broke off before its answer was complete."
    assert "secret" not in reply.text
    assert value(http, "deepseek_generations_total", reason="error") == before + 1


def test_no_stream_where_one_was_asked_for(http: httpx.Client, behind: Behind) -> None:
    behind.behave = _whole
    assert "broke off" in http.post(CHAT, json={**ASK, "stream": True}).text


def test_a_request_takes_no_longer_than_it_may(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority, behind: Behind
) -> None:
    url = f"http://127.0.0.1:{behind.port}"
    text = upstream_settings(checkpoint_store, token, authority, url) + "request_timeout = 0.5\n"
    message = "The answer was not complete in the time that a request may take."
    with (
        serve(tmp_path, text) as running,
        http_client(running.url, verify=authority.client("gateway-1")) as http,
    ):
        behind.behave = behind.slow
        assert error(http.post(CHAT, json=ASK)) == (504, "request_timeout", message)
        reply = http.post(CHAT, json={**ASK, "stream": True})
        assert message in reply.text.strip().splitlines()[-1]
        until(lambda: behind.running == 0)


def test_the_line_is_bounded(http: httpx.Client, front: Running, behind: Behind) -> None:
    behind.behave = behind.slow
    with ExitStack() as stack:
        for _place in range(2):
            stack.enter_context(http.stream("POST", CHAT, json={**ASK, "stream": True}))
        waiting = threading.Thread(target=lambda: http.post(CHAT, json=ASK), daemon=True)
        waiting.start()
        until(lambda: value(http, "deepseek_queue_requests") == 1)
        reply = http.post(CHAT, json=ASK)
        full = "Too many requests are waiting; try again later."
        assert error(reply) == (429, "queue_full", full)
        assert reply.headers["retry-after"] == "1"
        behind.behave = _usual
    waiting.join(PATIENCE)
    assert http.post(CHAT, json=ASK).status_code == 200


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model": "behind"}, 404, "model_not_found"),
        ({"n": 17}, 400, "invalid_value"),
        ({"best_of_all": 1}, 400, "unknown_parameter"),
        ({"messages": []}, 400, "invalid_value"),
    ],
)
def test_what_is_wrong_does_not_get_through(
    http: httpx.Client, behind: Behind, change: dict[str, Any], status: int, code: str
) -> None:
    before = len(behind.asked)
    assert error(http.post(CHAT, json={**ASK, **change}))[:2] == (status, code)
    assert len(behind.asked) == before


def test_completions_and_models(http: httpx.Client, behind: Behind) -> None:
    behind.behave = lambda body: JSONResponse(
        {"model": body["model"], "choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]}
    )
    reply = http.post("/v1/completions", json={"model": MODEL, "prompt": "a", "max_tokens": 1})
    assert reply.json()["choices"][0]["text"] == "b"
    (card,) = http.get("/v1/models").json()["data"]
    assert (card["id"], card["max_model_len"]) == (MODEL, 4096)


# A token without weights can end the engine of everybody


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": [5, 1024]}, "prompt"),
        ("/v1/completions", {"prompt": [[5], [2**20, 7]]}, "prompt"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"1024": 1}}, "logit_bias"),
        (CHAT, {"messages": ASK["messages"], "logit_bias": {"4096": -1}}, "logit_bias"),
        # a large body is judged in another process, with the same answer
        ("/v1/completions", {"prompt": [5] * 40_000 + [1024]}, "prompt"),
    ],
)
def test_a_token_that_the_model_does_not_have_goes_no_further(
    http: httpx.Client, behind: Behind, path: str, body: dict[str, Any], param: str
) -> None:
    before = len(behind.asked)
    reply = http.post(path, json={"model": MODEL, **body})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert "the vocabulary has the tokens 0 to 1023; " in reply.json()["error"]["message"]
    assert len(behind.asked) == before


@pytest.mark.parametrize(
    "sent",
    [
        {"messages": [{"role": "user", "content": 'of "<|pad|>" I ask'}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "<|pad|>"}]}]},
        {
            "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "function", "function": {"name": "f", "description": "<|pad|>"}}],
        },
        {"messages": [{"role": "user", "content": 'a "quoted\n" one'}]},
        {"prompt": "<|pad|>"},
        {"prompt": ["x", "<|pad|>"]},
    ],
)
def test_a_text_that_stands_for_a_token_beyond_the_table_is_refused(sent: dict[str, Any]) -> None:
    added = [(1023, "<|end|>"), (1024, "<|pad|>"), (1025, '"quoted\n"')]
    tokenizer = {"added_tokens": [{"id": number, "content": text} for number, text in added]}
    tokens = KnownTokens.of({"text_config": {"vocab_size": 1024}}, tokenizer)
    path = "/v1/completions" if "prompt" in sent else CHAT
    reading = ReadForwarded(path, "behind", tokens)
    with pytest.raises(RefusedError, match=r"a token which the model has not learned"):
        reading.read(json.dumps({"model": MODEL, **sent}).encode())
    known = json.dumps({"model": MODEL, **sent}).replace("<|pad|>", "<|end|>")
    if "quoted" not in known:
        assert reading.read(known.encode()).model == MODEL
    # of a model that does not say how many tokens it has, nothing is refused
    assert KnownTokens.of({"vocab_size": "?"}, tokenizer) == KnownTokens()


def test_quotas_are_settled_with_what_was_counted(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority, behind: Behind
) -> None:
    path = tmp_path / "keys.json"
    key = keys.add(path, "small", tokens_per_minute=1000)
    more = f'[keys]\nfile = "{path}"\n'
    url = f"http://127.0.0.1:{behind.port}"
    text = upstream_settings(checkpoint_store, token, authority, url, more)
    with (
        serve(tmp_path, text) as running,
        http_client(running.url, verify=authority.client("gateway-1")) as http,
    ):
        assert http.post(CHAT, json=ASK).status_code == 401
        http.headers["authorization"] = f"Bearer {key}"
        for stream in (False, True):
            assert http.post(CHAT, json={**ASK, "stream": stream}).status_code == 200
        left = int(http.get("/v1/models").headers["x-ratelimit-remaining-tokens"])
        # twice 20, and perhaps a second's refill
        assert 960 <= left <= 960 + 17 * 3
        behind.behave = lambda _body: JSONResponse({}, 500)
        assert http.post(CHAT, json={**ASK, "max_tokens": 500}).status_code == 502
        assert int(http.get("/v1/models").headers["x-ratelimit-remaining-tokens"]) >= left
        reply = http.post(CHAT, json={**ASK, "max_tokens": 2000})
        assert error(reply)[:2] == (400, "request_exceeds_quota")
        assert re.search(r"key=\S+ ?$|key=[^-]", running.log.read_text(encoding="utf-8"))


def test_readiness_follows_the_server_behind(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    server = Behind()
    url = f"http://127.0.0.1:{server.port}"
    text = upstream_settings(checkpoint_store, token, authority, url)
    with ExitStack() as stack:
        first = ExitStack()
        first.enter_context(serve_app(server.app, server.port))
        running = stack.enter_context(serve(tmp_path, text))
        http = stack.enter_context(http_client(running.url, verify=authority.client("gateway-1")))
        assert http.get("/readyz").status_code == 200
        first.close()
        until(lambda: http.get("/readyz").status_code == 503)
        assert http.get("/healthz").status_code == 200
        assert http.post(CHAT, json=ASK).status_code == 503
        # it is back, but has the wrong model at first
        server.behave = lambda _body: JSONResponse({"error": {"message": "loading"}}, 500)
        stack.enter_context(serve_app(server.app, server.port))
        time.sleep(0.3)
        assert http.get("/readyz").status_code == 503
        server.behave = _usual
        until(lambda: http.get("/readyz").status_code == 200)
        assert http.post(CHAT, json=ASK).status_code == 200


# Every user of a host can reach a port of it, but not ask behind a key


def test_an_upstream_is_asked_with_its_key(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    server = Behind()
    server.key = "upstream-key-of-the-test"
    key_file = tmp_path / "upstream.key"
    key_file.write_text(f"{server.key}\n", encoding="ascii")
    text = upstream_settings(
        checkpoint_store, token, authority, f"http://127.0.0.1:{server.port}"
    ).replace("allow_without_key = true", f'key_file = "{key_file}"')
    with serve_app(server.app, server.port), serve(tmp_path, text) as running:
        with http_client(running.url, verify=authority.client("gateway-1")) as http:
            # what a client sends is its own key, and goes no further
            headers = {"authorization": "Bearer of-the-client"}
            assert http.post(CHAT, json=ASK, headers=headers).status_code == 200
        assert server.key not in running.log.read_text(encoding="utf-8")


def test_an_upstream_that_every_user_can_ask_is_not_used(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    server = Behind()
    text = upstream_settings(
        checkpoint_store, token, authority, f"http://127.0.0.1:{server.port}"
    ).replace("allow_without_key = true", "start_seconds = 0.5")
    with serve_app(server.app, server.port):
        status, log = refused(tmp_path, text)
    assert status == 1
    assert "answers without a key (status 200), so every user of this host can ask it" in log
    assert "unix:/PATH" in log


@pytest.mark.parametrize("content", ["", "two words\n", "\x00", None])
def test_a_key_of_the_upstream_that_is_none_is_refused(
    tmp_path: Path,
    checkpoint_store: Path,
    token: Token,
    authority: Authority,
    content: str | None,
) -> None:
    key_file = tmp_path / "upstream.key"
    if content is not None:
        key_file.write_text(content, encoding="ascii")
    text = upstream_settings(checkpoint_store, token, authority, "http://127.0.0.1:1")
    text = text.replace("allow_without_key = true", f'key_file = "{key_file}"')
    status, log = refused(tmp_path, text)
    assert status == 78
    assert f"upstream.key_file: {key_file}" in log
    assert "Traceback" not in log


# An upstream may hang, and still say that it is healthy


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_hangs_is_left_until_it_answers(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority, *, stream: bool
) -> None:
    server = Behind()
    hangs = threading.Event()

    async def until_it_answers() -> None:
        while hangs.is_set():
            await asyncio.sleep(0.05)

    async def hang(body: dict[str, Any]) -> Response:
        if not hangs.is_set():
            return _usual(body)
        if body.get("stream"):

            async def begin() -> AsyncIterator[str]:
                yield _events()[0]
                await until_it_answers()

            return StreamingResponse(begin(), media_type="text/event-stream")
        await until_it_answers()
        return _usual(body)

    server.behave = hang
    text = upstream_settings(checkpoint_store, token, authority, f"http://127.0.0.1:{server.port}")
    text += "silent_seconds = 2\n"
    with (
        serve_app(server.app, server.port),
        serve(tmp_path, text) as running,
        http_client(running.url, verify=authority.client("gateway-1")) as http,
    ):
        assert http.post(CHAT, json=ASK).status_code == 200
        hangs.set()
        reply = http.post(CHAT, json={**ASK, "stream": stream})
        if stream:
            assert "The engine broke off" in reply.text
        else:
            assert error(reply)[:2] == (504, "engine_unavailable")
        until(lambda: http.get("/readyz").status_code == 503)
        # /health says 200 all the time, which readiness must not believe
        time.sleep(0.5)
        assert http.get("/readyz").status_code == 503
        assert http.post(CHAT, json=ASK).status_code == 503
        hangs.clear()
        until(lambda: http.get("/readyz").status_code == 200)
        assert http.post(CHAT, json=ASK).status_code == 200


# ... and what becomes of requests shows it long before one of them has waited for all its time


@pytest.fixture
def doubted(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> Iterator[tuple[Behind, httpx.Client]]:
    server = Behind()
    text = upstream_settings(checkpoint_store, token, authority, f"http://127.0.0.1:{server.port}")
    text += "doubt_seconds = 0.2\nquestion_seconds = 3\n"
    with (
        serve_app(server.app, server.port),
        serve(tmp_path, text) as running,
        http_client(running.url, verify=authority.client("gateway-1")) as http,
    ):
        yield server, http


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_hangs_is_left_while_its_requests_still_wait(
    doubted: tuple[Behind, httpx.Client], *, stream: bool
) -> None:
    server, http = doubted
    ends = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def hang(body: dict[str, Any]) -> Response:
        loops.append(asyncio.get_running_loop())
        await ends.wait()
        return _usual(body)

    async def hang_after_the_head(body: dict[str, Any]) -> Response:
        if not body.get("stream"):
            return await hang(body)

        async def begin() -> AsyncIterator[str]:
            yield ": nothing yet\n\n"
            await hang(body)
            for event in _events():
                yield event

        return StreamingResponse(begin(), media_type="text/event-stream")

    server.behave = hang_after_the_head
    replies: list[httpx.Response] = []
    waiting = threading.Thread(
        target=lambda: replies.append(http.post(CHAT, json={**ASK, "stream": stream}))
    )
    waiting.start()
    try:
        until(lambda: http.get("/readyz").status_code == 503)
        assert http.post(CHAT, json=ASK).status_code == 503
        assert not replies
    finally:
        server.behave = _usual
        until(lambda: bool(loops))
        loops[0].call_soon_threadsafe(ends.set)
        waiting.join()
    # nothing was taken from who waited, and a question that is answered ends the doubt
    assert replies[0].status_code == 200
    until(lambda: http.get("/readyz").status_code == 200)


@pytest.mark.parametrize("answer", ["a status", "breaks off", "no answer of its kind"])
def test_an_upstream_that_fails_all_requests_is_left_until_it_answers(
    doubted: tuple[Behind, httpx.Client], answer: str
) -> None:
    server, http = doubted

    def fail(body: dict[str, Any]) -> Response:
        if body.get("max_tokens") == 1 or answer == "a status":
            return JSONResponse({"error": {"message": "the engine is dead"}}, 500)
        if answer == "breaks off":
            return _stream(_events(finish=None, done=False))
        return PlainTextResponse("what?")

    server.behave = fail
    stream = answer == "breaks off"
    for _turn in range(3):
        assert http.get("/readyz").status_code == 200
        http.post(CHAT, json={**ASK, "stream": stream})
    until(lambda: http.get("/readyz").status_code == 503)
    server.behave = _usual
    until(lambda: http.get("/readyz").status_code == 200)
    assert http.post(CHAT, json=ASK).status_code == 200


def test_a_client_whose_requests_fail_takes_the_upstream_from_nobody(
    doubted: tuple[Behind, httpx.Client],
) -> None:
    server, http = doubted

    def fail(body: dict[str, Any]) -> Response:
        if "temperature" in body:
            return JSONResponse({"error": {"message": "of this request"}}, 500)
        return _usual(body)

    server.behave = fail
    began = len(server.asked)
    for _turn in range(20):
        assert http.post(CHAT, json={**ASK, "temperature": 1}).status_code == 502
        assert http.get("/readyz").status_code == 200
    # it was asked in between, and answered
    until(lambda: any(body.get("max_tokens") == 1 for body in server.asked[began:]))
    assert http.post(CHAT, json=ASK).status_code == 200


def test_doubts_are_raised_by_silence_towards_all_and_by_failures_in_a_row() -> None:
    now = [0.0]
    outcomes = Outcomes(10, lambda: now[0])
    now[0] = 1000.0
    # nobody waits, so nothing is owed
    assert not outcomes.doubtful
    outcomes.begin("long")
    now[0] += 9
    assert not outcomes.doubtful
    outcomes.came()  # to another
    now[0] += 9
    assert outcomes.waited == 9
    now[0] += 1
    assert outcomes.doubtful
    outcomes.end("long")
    assert not outcomes.doubtful
    for _time in range(2):
        outcomes.failed()
    # an answer that then breaks off is none
    outcomes.came()
    assert outcomes.failures == 2
    outcomes.answered()
    outcomes.failed()
    assert not outcomes.doubtful
    for _time in range(2):
        outcomes.failed()
    assert outcomes.doubtful
    outcomes.answered()
    assert not outcomes.doubtful


def test_a_server_that_never_comes_is_not_waited_for_forever(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    text = upstream_settings(checkpoint_store, token, authority, url) + "start_seconds = 0.2\n"
    status, log = refused(tmp_path, text)
    assert status == 1
    assert f"upstream.url: {url} was not ready within 0.2 s; look at its own log" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:80", "https://127.0.0.1:80", "http://127.0.0.1", "http://localhost:80"]
)
def test_nothing_leaves_the_host_unencrypted(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority, url: str
) -> None:
    status, log = refused(tmp_path, upstream_settings(checkpoint_store, token, authority, url))
    assert status == 78
    assert "upstream.url: must be http://127.0.0.1:PORT" in log


def test_a_socket_of_the_file_system_will_do(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    url = f"unix:{tmp_path}/none"
    text = upstream_settings(checkpoint_store, token, authority, url) + "start_seconds = 0.2\n"
    status, log = refused(tmp_path, text)
    assert (status, "was not ready within" in log) == (1, True)


def test_the_engine_is_named_once(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    text = upstream_settings(checkpoint_store, token, authority, "http://127.0.0.1:1")
    status, log = refused(tmp_path, text.replace('kind = "upstream"', 'kind = "onnxruntime"'))
    assert status == 78
    assert 'engine.kind = "upstream" and the section [upstream] come together' in log


def test_a_checkpoint_that_was_changed_is_not_served(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    (manifest,) = (checkpoint_store / "checkpoint" / MODEL).glob("*/manifest.json")
    kept = manifest.read_bytes()
    manifest.write_bytes(kept.replace(b'"tests"', b'"other"'))
    try:
        text = upstream_settings(checkpoint_store, token, authority, "http://127.0.0.1:1")
        status, log = refused(tmp_path, text)
    finally:
        manifest.write_bytes(kept)
    assert status == 78
    assert f"{manifest}: changed after signing" in log
