"""Answers in OpenAI's shapes: in one piece, or as server-sent events while they are generated."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deepseek_serving.backends.answer import Chunk, Generation
from deepseek_serving.backends.errors import (
    GenerationFailedError,
    GenerationFaultError,
    GenerationRefusedError,
    GenerationReturnedError,
    GenerationTimeoutError,
)
from deepseek_serving.backends.local import Service
from deepseek_serving.generation.reply import Piece, ToolCall
from deepseek_serving.generation.sampling import Choice
from deepseek_serving.generation.scheduler import Event
from deepseek_serving.http.auth import Caller
from deepseek_serving.http.errors import ApiError

# a shorter answer is there before it would pay to look whether somebody waits for it
LOOK_SECONDS = 0.05
# JSON has no minus infinity; OpenAI's own stand-in for it
LEAST_LOGPROB = -9999.0


def unavailable() -> ApiError:
    return ApiError(503, "The service is stopping or has failed.", kind="server_error")


def not_taken() -> ApiError:
    """What a service that stops has not begun: the gateway asks another one.

    Nothing else is answered with this status (Too Early, RFC 8470), so that it can be told from
    what a service had already taken.
    """
    return ApiError(
        425,
        "The service is stopping and has not taken the request; send it again.",
        kind="server_error",
        code="not_taken",
        headers={"retry-after": "1"},
    )


def _failure(error: GenerationFailedError) -> ApiError:
    if isinstance(error, GenerationTimeoutError):
        return ApiError(
            504,
            "The answer was not complete in the time that a request may take.",
            kind="server_error",
            code="request_timeout",
        )
    if isinstance(error, GenerationReturnedError):
        return not_taken()
    if isinstance(error, GenerationFaultError):
        return ApiError(
            500,
            "The engine could not answer this request. It goes on with others; the service's log "
            "says why.",
            kind="server_error",
            code="generation_failed",
        )
    if isinstance(error, GenerationRefusedError):
        return ApiError(
            400,
            "The answer cannot go on: what it must look like is more than can be enforced. "
            "Ask for a simpler schema.",
            param="response_format",
            code="invalid_json_schema",
        )
    return unavailable()


class Answers:
    """All answers to one request, and what they cost."""

    def __init__(
        self,
        service: Service,
        generations: Sequence[Generation],
        caller: Caller,
        reserved: int,
    ) -> None:
        self.service = service
        self.generations = generations
        self._caller = caller
        self._reserved = reserved
        self._closed = False

    def close(self) -> None:
        """End what is not complete, and settle the key's account; once."""
        if not self._closed:
            self._closed = True
            for generation in self.generations:
                generation.close()
            self._caller.settle(self._reserved, self._prompt + self._completion)

    def abandon(self) -> None:
        """End the answers for their readers: no client waits for them."""
        for generation in self.generations:
            generation.deliver(Event(finish="cancelled"))

    @property
    def _prompt(self) -> int:
        """A prompt that is answered several times counts once."""
        return sum({g.request_number: g.prompt_tokens for g in self.generations}.values())

    @property
    def _completion(self) -> int:
        return sum(g.completion_tokens for g in self.generations)

    def usage(self) -> dict[str, Any]:
        cached = {g.request_number: g.cached_tokens for g in self.generations}
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._completion,
            "total_tokens": self._prompt + self._completion,
            "prompt_tokens_details": {"cached_tokens": sum(cached.values())},
            "completion_tokens_details": {
                "reasoning_tokens": sum(g.reasoning_tokens for g in self.generations)
            },
        }

    async def merged(self) -> AsyncIterator[tuple[int, list[Chunk] | None]]:
        """Chunks of all answers as they come, with their indices; None at the end of each."""
        if len(self.generations) == 1:
            async for chunks in self.generations[0].chunks():
                yield 0, chunks
            yield 0, None
            return
        queue: asyncio.Queue[tuple[int, list[Chunk] | GenerationFailedError | None]]
        queue = asyncio.Queue()

        async def read(index: int, generation: Generation) -> None:
            try:
                async for chunks in generation.chunks():
                    queue.put_nowait((index, chunks))
            except GenerationFailedError as error:
                queue.put_nowait((index, error))
            else:
                queue.put_nowait((index, None))

        readers = [asyncio.ensure_future(read(i, g)) for i, g in enumerate(self.generations)]
        try:
            left = len(readers)
            while left:
                index, item = await queue.get()
                if isinstance(item, GenerationFailedError):
                    raise item
                left -= item is None
                yield index, item
        finally:
            for reader in readers:
                reader.cancel()


@dataclass
class CompletedAnswer:
    """One answer, read to its end."""

    piece: Piece = field(default_factory=Piece)
    tokens: list[Choice] = field(default_factory=list)

    @classmethod
    async def read(cls, generation: Generation) -> CompletedAnswer:
        whole = cls()
        pieces = []
        async for chunks in generation.chunks():
            for chunk in chunks:
                pieces.append(chunk.piece)
                whole.tokens.extend(chunk.tokens)
        whole.piece = Piece(
            "".join(piece.content for piece in pieces),
            "".join(piece.reasoning for piece in pieces),
            tuple(call for piece in pieces for call in piece.calls),
        )
        return whole


class Shape(Protocol):
    """How one of the API's endpoints writes answers."""

    prefix: str
    whole_object: str
    chunk_object: str

    def whole(self, index: int, answer: CompletedAnswer, finish: str) -> dict[str, Any]:
        """One of the choices."""

    def begin(self, index: int) -> dict[str, Any] | None:
        """What a stream says before anything is generated."""

    def chunk(self, index: int, chunk: Chunk) -> dict[str, Any]:
        """Some of a choice."""

    def end(self, index: int, finish: str) -> dict[str, Any]:
        """The last of a choice."""


def _token(service: Service, token: int, logprob: float) -> dict[str, Any]:
    data = service.grammars.token_bytes(token)
    return {
        "token": data.decode("utf-8", "replace"),
        "logprob": max(logprob, LEAST_LOGPROB),
        "bytes": list(data),
    }


class ChatShape:
    """Answers as chat completions."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, service: Service, *, logprobs: bool) -> None:
        self._service = service
        self._logprobs = logprobs
        # calls so far, by choice
        self._calls: dict[int, int] = {}

    def _tokens(self, tokens: Sequence[Choice]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = [
            {
                **_token(self._service, choice.token, choice.logprob or 0.0),
                "top_logprobs": [
                    _token(self._service, top.token, top.logprob) for top in choice.top
                ],
            }
            for choice in tokens
        ]
        return {"content": content, "refusal": None}

    def whole(self, index: int, answer: CompletedAnswer, finish: str) -> dict[str, Any]:
        piece = answer.piece
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if piece.calls and not piece.content.strip() else piece.content,
            "refusal": None,
        }
        if piece.reasoning:
            message["reasoning_content"] = piece.reasoning
        if piece.calls:
            message["tool_calls"] = [_call(call) for call in piece.calls]
        return {
            "index": index,
            "message": message,
            "logprobs": self._tokens(answer.tokens),
            "finish_reason": "tool_calls" if piece.calls and finish == "stop" else finish,
        }

    def _delta(
        self,
        index: int,
        delta: Mapping[str, Any],
        finish: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def begin(self, index: int) -> dict[str, Any] | None:
        return self._delta(index, {"role": "assistant", "content": ""})

    def chunk(self, index: int, chunk: Chunk) -> dict[str, Any]:
        piece = chunk.piece
        delta: dict[str, Any] = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.content:
            delta["content"] = piece.content
        if piece.calls:
            first = self._calls.get(index, 0)
            self._calls[index] = first + len(piece.calls)
            delta["tool_calls"] = [
                {"index": first + number, **_call(call)} for number, call in enumerate(piece.calls)
            ]
        return self._delta(index, delta, logprobs=self._tokens(chunk.tokens))

    def end(self, index: int, finish: str) -> dict[str, Any]:
        called = finish == "stop" and index in self._calls
        return self._delta(index, {}, "tool_calls" if called else finish)


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


class TextShape:
    """Answers as text completions."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, service: Service, *, logprobs: bool, echoes: Sequence[str]) -> None:
        """`echoes`: what each choice's text begins with."""
        self._service = service
        self._logprobs = logprobs
        self._echoes = echoes
        # characters so far, by choice
        self._offsets: dict[int, int] = {}

    def _tokens(self, index: int, tokens: Sequence[Choice]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        texts, offsets = [], []
        offset = self._offsets.get(index, 0)
        for choice in tokens:
            texts.append(self._text(choice.token))
            offsets.append(offset)
            offset += len(texts[-1])
        self._offsets[index] = offset
        return {
            "tokens": texts,
            "token_logprobs": [max(c.logprob or 0.0, LEAST_LOGPROB) for c in tokens],
            "top_logprobs": [
                {self._text(top.token): max(top.logprob, LEAST_LOGPROB) for top in choice.top}
                for choice in tokens
            ],
            "text_offset": offsets,
        }

    def _text(self, token: int) -> str:
        return self._service.grammars.token_bytes(token).decode("utf-8", "replace")

    def _choice(
        self, index: int, text: str, tokens: Sequence[Choice], finish: str | None
    ) -> dict[str, Any]:
        logprobs = self._tokens(index, tokens)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def whole(self, index: int, answer: CompletedAnswer, finish: str) -> dict[str, Any]:
        text = self._echoes[index] + answer.piece.content
        return self._choice(index, text, answer.tokens, finish)

    def begin(self, index: int) -> dict[str, Any] | None:
        echo = self._echoes[index]
        return self._choice(index, echo, (), None) if echo else None

    def chunk(self, index: int, chunk: Chunk) -> dict[str, Any]:
        return self._choice(index, chunk.piece.content, chunk.tokens, None)

    def end(self, index: int, finish: str) -> dict[str, Any]:
        return self._choice(index, "", (), finish)


def _base(service: Service, prefix: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": service.release.model,
        "system_fingerprint": service.release.digest[:12],
    }


def left() -> Response:
    """For a client that is gone: nobody reads it; 499 is what the logs of proxies call this."""
    return Response(status_code=499)


async def disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Watch:
    """Abandons the answers when the client hangs up, while they are being made."""

    def __init__(self, answers: Answers, request: Request) -> None:
        self._answers = answers
        self._request = request
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._begin)
        self.gone = False

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        await disconnected(self._request)
        self.gone = True
        self._answers.abandon()

    def close(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            # what it was cancelled with would keep it, and it this
            self._task = None


async def _read_all(generations: Sequence[Generation]) -> list[CompletedAnswer]:
    # their events wait in queues, so one after the other misses nothing
    return [await CompletedAnswer.read(generation) for generation in generations]


async def whole(answers: Answers, shape: Shape, request: Request) -> Response:
    """The answers in one piece; abandoned as soon as the client hangs up."""
    watch = _Watch(answers, request)
    try:
        read = await _read_all(answers.generations)
    except GenerationFailedError as error:
        if watch.gone:
            return left()
        raise _failure(error) from error
    finally:
        watch.close()
        answers.close()
    choices = [
        shape.whole(index, answer, generation.finish_reason)
        for index, (answer, generation) in enumerate(zip(read, answers.generations, strict=True))
    ]
    body = _base(answers.service, shape.prefix, shape.whole_object)
    return JSONResponse({**body, "choices": choices, "usage": answers.usage()})


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


# made once: json.dumps makes one for every call that asks for other separators
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _event(data: Mapping[str, Any]) -> str:
    return f"data: {_encode(data)}\n\n"


async def _events(answers: Answers, shape: Shape, *, include_usage: bool) -> AsyncIterator[str]:
    base = _base(answers.service, shape.prefix, shape.chunk_object)
    if include_usage:
        base["usage"] = None
    # the same in all of them
    head = f'data: {_encode(base)[:-1]},"choices":['

    def of_choice(choice: Mapping[str, Any]) -> str:
        return f"{head}{_encode(choice)}]}}\n\n"

    for index in range(len(answers.generations)):
        begun = shape.begin(index)
        if begun is not None:
            yield of_choice(begun)
    try:
        async for index, chunks in answers.merged():
            if chunks is not None:
                # a write for each would cost more than the events themselves
                yield "".join(of_choice(shape.chunk(index, chunk)) for chunk in chunks)
            else:
                yield of_choice(shape.end(index, answers.generations[index].finish_reason))
    except GenerationFailedError as error:
        # the status line is sent already; clients raise on an event with an error
        yield _event(_failure(error).body())
        return
    if include_usage:
        yield _event({**base, "choices": [], "usage": answers.usage()})
    yield "data: [DONE]\n\n"


def stream(answers: Answers, shape: Shape, *, include_usage: bool) -> Response:
    """The answers as server-sent events."""
    return EventStream(answers, _events(answers, shape, include_usage=include_usage))
