"""Responses in front of an upstream that has chat completions alone.

The upstream is a real server on a real socket; only what it says is made up.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from support import MODEL, free_port, serve_app
from upstream_server import in_front_of
from waiting import http_client

ASK: dict[str, Any] = {"model": MODEL, "input": "Where is the patient?"}
TOOL: Any = {"type": "function", "name": "find", "parameters": {"type": "object"}, "strict": False}
USAGE = {
    "prompt_tokens": 17,
    "completion_tokens": 9,
    "total_tokens": 26,
    "prompt_tokens_details": {"cached_tokens": 16},
}
FUNCTION = {"name": "find", "arguments": '{"bed": 3}'}
MESSAGE = {
    "role": "assistant",
    "content": "I look.",
    "reasoning": "Hm.",
    "tool_calls": [{"id": "call_1", "type": "function", "function": FUNCTION}],
}
DELTAS: list[dict[str, Any]] = [
    {"role": "assistant", "content": ""},
    {"reasoning_content": "H"},
    {"reasoning_content": "m."},
    {"content": "I "},
    {"content": "look."},
    {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "find", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"bed"'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ": 3}"}}]},
]


class Speaker:
    """An upstream that says what the test says."""

    def __init__(self) -> None:
        self.message: dict[str, Any] = MESSAGE
        self.deltas = DELTAS
        self.finish: str | None = "tool_calls"
        self.asked: dict[str, Any] = {}
        self.status = 200

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        if body.get("max_tokens") == 1:
            return JSONResponse(self._whole())
        self.asked = body
        if self.status != 200:
            return JSONResponse({"error": {"message": "too long"}}, self.status)
        if body.get("stream"):
            return StreamingResponse(self._events(), media_type="text/event-stream")
        return JSONResponse(self._whole())

    def _whole(self) -> dict[str, Any]:
        choice = {"index": 0, "message": self.message, "finish_reason": self.finish}
        return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": USAGE}

    async def _events(self) -> AsyncIterator[str]:
        def event(choices: list[dict[str, Any]], **more: Any) -> str:
            return f"data: {json.dumps({'id': '1', 'choices': choices, **more})}\n\n"

        for delta in self.deltas:
            yield event([{"index": 0, "delta": delta, "finish_reason": None}])
        if self.finish:
            yield event([{"index": 0, "delta": {}, "finish_reason": self.finish}])
            yield event([], usage=USAGE)
        yield "data: [DONE]\n\n"


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture(autouse=True)
def usual(speaker: Speaker) -> Iterator[None]:
    yield
    speaker.__init__()  # type: ignore[misc]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, speaker: Speaker) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    (folder / "config.json").write_text("{}")
    routes = [
        Route("/health", lambda _request: PlainTextResponse("")),
        Route("/v1/chat/completions", speaker.answer, methods=["POST"]),
    ]
    with (
        serve_app(Starlette(routes=routes), free_port()) as behind,
        in_front_of(behind, folder) as front,
    ):
        yield front


@pytest.fixture
def sdk(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        yield client


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with http_client(url) as client:
        yield client


def shown(response: Any) -> list[Any]:
    """The output, without ids."""
    thought, message, call = response.output
    return [
        thought.content[0].text,
        message.content[0].text,
        (call.call_id, call.name, json.loads(call.arguments)),
    ]


SHOWN: list[Any] = ["Hm.", "I look.", ("call_1", "find", {"bed": 3})]


def test_a_chat_answer_becomes_a_response(sdk: openai.OpenAI, speaker: Speaker) -> None:
    response = sdk.responses.create(**ASK, tools=[TOOL], instructions="Be brief.")
    assert shown(response) == SHOWN
    assert (response.status, response.model) == ("completed", MODEL)
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 16
    assert response.usage.output_tokens == 9
    assert speaker.asked["model"] == "behind"
    assert [message["role"] for message in speaker.asked["messages"]] == ["system", "user"]
    assert speaker.asked["tools"][0]["function"]["name"] == "find"


def test_a_stream_of_chat_becomes_events(sdk: openai.OpenAI, speaker: Speaker) -> None:
    with sdk.responses.stream(**ASK, tools=[TOOL]) as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert shown(response) == SHOWN
    arguments = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert arguments == ['{"bed"', ": 3}"]
    assert response.usage is not None
    assert response.usage.total_tokens == 26
    assert speaker.asked["stream_options"] == {"include_usage": True}


def test_an_answer_that_was_cut_is_incomplete(sdk: openai.OpenAI, speaker: Speaker) -> None:
    speaker.finish = "length"
    response = sdk.responses.create(**ASK)
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    with sdk.responses.create(**ASK, stream=True) as stream:
        *_events, last = stream
    assert last.type == "response.incomplete"
    assert last.response.output[-1].status == "incomplete"


@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": "I "}, {"content": ["look."]}],
        [{"content": "I "}, {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}],
        [{"content": "I "}, {"tool_calls": [{"index": 0}]}],
    ],
)
def test_an_answer_that_is_none_fails(
    sdk: openai.OpenAI, speaker: Speaker, deltas: list[dict[str, Any]]
) -> None:
    speaker.deltas = deltas
    with sdk.responses.create(**ASK, stream=True) as stream:
        *_events, last = stream
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert last.response.output_text == "I "
    speaker.message = deltas[1]
    with pytest.raises(openai.APIStatusError, match="broke off") as caught:
        sdk.responses.create(**ASK)
    assert caught.value.status_code == 502


def test_a_stream_that_breaks_off_fails(sdk: openai.OpenAI, speaker: Speaker) -> None:
    speaker.finish = None
    with sdk.responses.create(**ASK, stream=True) as stream:
        *_events, last = stream
    assert last.type == "response.failed"
    assert [item.status for item in last.response.output] == ["completed"] * 2 + ["incomplete"]


def test_refusals_come_before_the_upstream_is_asked(http: httpx.Client, speaker: Speaker) -> None:
    reply = http.post("/v1/responses", json={**ASK, "store": True})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "store")
    assert speaker.asked == {}
    speaker.status = 400
    reply = http.post("/v1/responses", json=ASK)
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "too long")
