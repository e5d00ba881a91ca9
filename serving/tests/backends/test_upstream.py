"""What is passed on to an upstream and from it, and what becomes of its refusals and failures."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from support import MODEL, VERSION, Authority, Running, Token, serve, serve_app, upstream_settings
from upstream_server import (
    ASK,
    CHAT,
    WORDS,
    UpstreamServer,
    answer_events,
    error,
    streamed,
    usual_answer,
    value,
    whole,
)
from waiting import PATIENCE, http_client, until

from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.validation import ReadForwarded
from deepseek_serving.policy import keys
from deepseek_serving.text.known_tokens import KnownTokens


@pytest.fixture(scope="module")
def behind() -> Iterator[UpstreamServer]:
    server = UpstreamServer()
    server.answers_questions = True
    with serve_app(server.app, server.port):
        yield server


@pytest.fixture(autouse=True)
def usual(behind: UpstreamServer) -> Iterator[None]:
    yield
    behind.behave = usual_answer


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint_store: Path,
    token: Token,
    authority: Authority,
    behind: UpstreamServer,
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


def test_an_answer_comes_in_our_releases_name(
    sdk: openai.OpenAI, behind: UpstreamServer, checkpoint_store: Path
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


def test_a_stream_is_passed_on_and_counted(sdk: openai.OpenAI, behind: UpstreamServer) -> None:
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


def test_a_server_that_does_not_say_done_is_understood(
    http: httpx.Client, behind: UpstreamServer
) -> None:
    behind.behave = lambda _body: streamed(answer_events(done=False))
    assert http.post(CHAT, json={**ASK, "stream": True}).text.endswith("data: [DONE]\n\n")


def test_tokens_come_as_they_are_generated(http: httpx.Client, behind: UpstreamServer) -> None:
    behind.behave = behind.slow
    with http.stream("POST", CHAT, json={**ASK, "stream": True}) as reply:
        lines = reply.iter_lines()
        assert "word " in next(lines)
        until(lambda: behind.running == 1)
    # and the upstream stops when our client is gone
    until(lambda: behind.running == 0)
    until(lambda: value(http, "deepseek_slots_busy") == 0)


def test_a_client_that_hangs_up_before_the_answer_ends_it(
    http: httpx.Client, behind: UpstreamServer
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
def test_refusals_of_the_upstream(
    http: httpx.Client, behind: UpstreamServer, status: int, body: dict[str, Any], expected: Any
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
def test_an_answer_that_is_none(http: httpx.Client, behind: UpstreamServer, answer: Any) -> None:
    behind.behave = lambda _body: answer()
    broken = "The engine broke off before its answer was complete."
    assert error(http.post(CHAT, json=ASK)) == (502, "engine_unavailable", broken)


@pytest.mark.parametrize(
    "events",
    [
        answer_events(done=False, finish=None),
        answer_events(finish=None),
        [
            *answer_events(done=False, finish=None),
            'data: {"error": {"message": "/opt/secret"}}\n\n',
        ],
        ["data: no JSON\n\n"],
        ["data: [1]\n\n"],
        [],
    ],
)
def test_a_stream_that_breaks_off_ends_with_an_error(
    http: httpx.Client, behind: UpstreamServer, events: list[str]
) -> None:
    behind.behave = lambda _body: streamed(events)
    before = value(http, "deepseek_generations_total", reason="error")
    reply = http.post(CHAT, json={**ASK, "stream": True})
    assert reply.status_code == 200
    last = json.loads(reply.text.strip().splitlines()[-1].removeprefix("data: "))
    assert last["error"]["message"] == "The engine broke off before its answer was complete."
    assert "secret" not in reply.text
    assert value(http, "deepseek_generations_total", reason="error") == before + 1


def test_no_stream_where_one_was_asked_for(http: httpx.Client, behind: UpstreamServer) -> None:
    behind.behave = whole
    assert "broke off" in http.post(CHAT, json={**ASK, "stream": True}).text


def test_a_request_takes_no_longer_than_it_may(
    tmp_path: Path,
    checkpoint_store: Path,
    token: Token,
    authority: Authority,
    behind: UpstreamServer,
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


def test_the_line_is_bounded(http: httpx.Client, front: Running, behind: UpstreamServer) -> None:
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
        behind.behave = usual_answer
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
    http: httpx.Client, behind: UpstreamServer, change: dict[str, Any], status: int, code: str
) -> None:
    before = len(behind.asked)
    assert error(http.post(CHAT, json={**ASK, **change}))[:2] == (status, code)
    assert len(behind.asked) == before


def test_completions_and_models(http: httpx.Client, behind: UpstreamServer) -> None:
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
        (CHAT, {"messages": ASK["messages"], "stop_token_ids": [1024]}, "stop_token_ids"),
        ("/v1/completions", {"prompt": "a", "allowed_token_ids": [1, 1024]}, "allowed_token_ids"),
        # a large body is judged in another process, with the same answer
        ("/v1/completions", {"prompt": [5] * 40_000 + [1024]}, "prompt"),
    ],
)
def test_a_token_that_the_model_does_not_have_goes_no_further(
    http: httpx.Client, behind: UpstreamServer, path: str, body: dict[str, Any], param: str
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
        {"prompt": "x", "bad_words": ["<|pad|>"]},
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
    tmp_path: Path,
    checkpoint_store: Path,
    token: Token,
    authority: Authority,
    behind: UpstreamServer,
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
