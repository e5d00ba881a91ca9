"""When an upstream is left, and when it is taken again: gone, hanging, failing, in doubt."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from support import Authority, Token, serve, serve_app, upstream_settings
from upstream_server import ASK, CHAT, UpstreamServer, answer_events, error, streamed, usual_answer
from waiting import http_client, until

from deepseek_serving.backends.outcomes import Outcomes


def test_readiness_follows_the_upstream(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    server = UpstreamServer()
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
        server.behave = usual_answer
        until(lambda: http.get("/readyz").status_code == 200)
        assert http.post(CHAT, json=ASK).status_code == 200


# An upstream may hang, and still say that it is healthy


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_hangs_is_left_until_it_answers(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority, *, stream: bool
) -> None:
    server = UpstreamServer()
    hangs = threading.Event()

    async def until_it_answers() -> None:
        while hangs.is_set():
            await asyncio.sleep(0.05)

    async def hang(body: dict[str, Any]) -> Response:
        if not hangs.is_set():
            return usual_answer(body)
        if body.get("stream"):

            async def begin() -> AsyncIterator[str]:
                yield answer_events()[0]
                await until_it_answers()

            return StreamingResponse(begin(), media_type="text/event-stream")
        await until_it_answers()
        return usual_answer(body)

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
) -> Iterator[tuple[UpstreamServer, httpx.Client]]:
    server = UpstreamServer()
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
    doubted: tuple[UpstreamServer, httpx.Client], *, stream: bool
) -> None:
    server, http = doubted
    ends = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def hang(body: dict[str, Any]) -> Response:
        loops.append(asyncio.get_running_loop())
        await ends.wait()
        return usual_answer(body)

    async def hang_after_the_head(body: dict[str, Any]) -> Response:
        if not body.get("stream"):
            return await hang(body)

        async def begin() -> AsyncIterator[str]:
            yield ": nothing yet\n\n"
            await hang(body)
            for event in answer_events():
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
        server.behave = usual_answer
        until(lambda: bool(loops))
        loops[0].call_soon_threadsafe(ends.set)
        waiting.join()
    # nothing was taken from who waited, and a question that is answered ends the doubt
    assert replies[0].status_code == 200
    until(lambda: http.get("/readyz").status_code == 200)


@pytest.mark.parametrize("answer", ["a status", "breaks off", "no answer of its kind"])
def test_an_upstream_that_fails_all_requests_is_left_until_it_answers(
    doubted: tuple[UpstreamServer, httpx.Client], answer: str
) -> None:
    server, http = doubted

    def fail(body: dict[str, Any]) -> Response:
        if body.get("max_tokens") == 1 or answer == "a status":
            return JSONResponse({"error": {"message": "the engine is dead"}}, 500)
        if answer == "breaks off":
            return streamed(answer_events(finish=None, done=False))
        return PlainTextResponse("what?")

    server.behave = fail
    stream = answer == "breaks off"
    for _turn in range(3):
        assert http.get("/readyz").status_code == 200
        http.post(CHAT, json={**ASK, "stream": stream})
    until(lambda: http.get("/readyz").status_code == 503)
    server.behave = usual_answer
    until(lambda: http.get("/readyz").status_code == 200)
    assert http.post(CHAT, json=ASK).status_code == 200


def test_a_client_whose_requests_fail_takes_the_upstream_from_nobody(
    doubted: tuple[UpstreamServer, httpx.Client],
) -> None:
    server, http = doubted

    def fail(body: dict[str, Any]) -> Response:
        if "temperature" in body:
            return JSONResponse({"error": {"message": "of this request"}}, 500)
        return usual_answer(body)

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
