"""Answers in OpenAI's shapes: in one piece, or as server-sent events while they are generated."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deepseek_serving.backends.errors import GenerationFailedError
from deepseek_serving.generation.request import Usage
from deepseek_serving.http.answers import Answers, read_all
from deepseek_serving.http.failures import failure
from deepseek_serving.http.hang_up import Watch, left
from deepseek_serving.http.shapes import Shape
from deepseek_serving.http.sliced_json import json_response


def _base(answers: Answers, prefix: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{secrets.token_hex(16)}",
        "object": kind,
        "created": int(time.time()),
        "model": answers.model,
        "system_fingerprint": answers.service.release.digest[:12],
    }


async def whole(answers: Answers, shape: Shape, request: Request) -> Response:
    """The answers in one piece; abandoned as soon as the client hangs up."""
    watch = Watch(answers, request)
    try:
        read = await read_all(answers.generations)
    except GenerationFailedError as error:
        if watch.gone:
            return left()
        raise failure(error) from error
    finally:
        watch.close()
        answers.close()
    choices = [
        shape.whole(index, answer, generation.finish_reason)
        for index, (answer, generation) in enumerate(zip(read, answers.generations, strict=True))
    ]
    body = _base(answers, shape.prefix, shape.whole_object)
    beside = shape.beside(read)
    return await json_response({**body, "choices": choices, "usage": answers.usage(), **beside})


class EventStream(StreamingResponse):
    """Ends the answers when the client hangs up, even before the first event."""

    def __init__(self, answers: Answers, events: AsyncIterator[str]) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={"cache-control": "no-cache"}
        )
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.close()


# made once: json.dumps makes one for every call that asks for other separators; what is written is
# made for that, and does not hold itself
_encode = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


def _event(data: Mapping[str, Any]) -> str:
    return f"data: {_encode(data)}\n\n"


async def _events(answers: Answers, shape: Shape, usage: Usage) -> AsyncIterator[str]:
    base = _base(answers, shape.prefix, shape.chunk_object)
    if usage == "last":
        base["usage"] = None
    # the same in all of them
    head = f'data: {_encode(base)[:-1]},"choices":['

    def of_choice(choice: Mapping[str, Any]) -> str:
        if usage == "every":
            return _event({**base, "choices": [choice], "usage": answers.usage()})
        return f"{head}{_encode(choice)}]}}\n\n"

    for index in range(len(answers.generations)):
        begun = shape.begin(index)
        if begun is not None:
            yield of_choice(begun)
    try:
        async for index, chunks in answers.merged():
            if chunks is not None:
                for scores in (chunk.scores for chunk in chunks):
                    for part in () if scores is None else shape.scored(index, scores):
                        yield of_choice(part)
                        await asyncio.sleep(0)
                # a write for each would cost more than the events themselves
                yield "".join(of_choice(shape.chunk(index, chunk)) for chunk in chunks)
            else:
                yield of_choice(shape.end(index, answers.generations[index].finish_reason))
    except GenerationFailedError as error:
        # the status line is sent already; clients raise on an event with an error
        yield _event(failure(error).body())
        return
    if usage != "none":
        yield _event({**base, "choices": [], "usage": answers.usage()})
    yield "data: [DONE]\n\n"


def stream(answers: Answers, shape: Shape, usage: Usage) -> Response:
    """The answers as server-sent events."""
    return EventStream(answers, _events(answers, shape, usage))
