"""A stand-in for an upstream: a real server on a real socket; only what it says is made up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from support import MODEL, VERSION, free_port, serve_app

from deepseek_serving.backends.upstream import Upstream
from deepseek_serving.http.proxy import create_forwarding_app
from deepseek_serving.settings import UpstreamSettings
from deepseek_serving.trust.release import Release

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is a release?"}],
}
USAGE = {"prompt_tokens": 17, "completion_tokens": 3, "total_tokens": 20}
WORDS = ("A", " signed", " checkpoint")

Behaviour = Callable[[dict[str, Any]], Response | Awaitable[Response]]


def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "behind"}
    return f"data: {json.dumps({**body, 'choices': choices, **more})}\n\n"


def delta(content: str, finish: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]


def answer_events(*, done: bool = True, finish: str | None = "stop") -> list[str]:
    events = [chunk(delta(word)) for word in WORDS]
    if finish:
        events.append(chunk(delta("", finish)))
        events.append(chunk([], usage=USAGE))
    return [*events, "data: [DONE]\n\n"] if done else events


def whole(body: dict[str, Any]) -> Response:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1}
    return JSONResponse({**answer, "model": body["model"], "choices": [choice], "usage": USAGE})


def streamed(events: list[str]) -> Response:
    async def some() -> AsyncIterator[str]:
        for event in events:
            yield event

    return StreamingResponse(some(), media_type="text/event-stream")


def usual_answer(body: dict[str, Any]) -> Response:
    return streamed(answer_events()) if body.get("stream") else whole(body)


class UpstreamServer:
    """It does as the test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.port = free_port()
        self.behave: Behaviour = usual_answer
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
            return usual_answer(body)
        answer = self.behave(body)
        return answer if isinstance(answer, Response) else await answer

    async def slow(self, body: dict[str, Any]) -> Response:
        """Words without end, or an answer that takes longer than it may."""

        async def words() -> AsyncIterator[str]:
            self.running += 1
            try:
                while True:
                    yield chunk(delta("word "))
                    await asyncio.sleep(0.01)
            finally:
                self.running -= 1

        if body.get("stream"):
            return StreamingResponse(words(), media_type="text/event-stream")
        await asyncio.sleep(3)
        return whole(body)


@contextmanager
def in_front_of(url: str, checkpoint: Path, **more: Any) -> Iterator[str]:
    """A service, without TLS and keys, whose upstream is at the URL; its own URL."""
    settings = UpstreamSettings(url=url, model="behind", allow_without_key=True, **more)
    upstream = Upstream(Release(MODEL, VERSION, "0" * 64, checkpoint), settings, ["alias"])
    app = create_forwarding_app(upstream)

    async def ready(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await upstream.begin()
        await app(scope, receive, send)

    with serve_app(ready) as front:
        yield front


def value(http: httpx.Client, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(http.get("/metrics").text)
    samples = [s for family in families for s in family.samples if s.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def error(reply: httpx.Response) -> tuple[int, str | None, str]:
    body = reply.json()["error"]
    return reply.status_code, body["code"], body["message"]
