"""Responses of an upstream: made of its chat answers, so that every upstream can give them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.responses_output import MalformedAnswerError
from deepseek_serving.http.responses_shape import ResponseShape


class _Function(BaseModel):
    name: str | None = None
    arguments: str | None = None


class _Call(BaseModel):
    index: int | None = None
    id: str | None = None
    function: _Function


class _Said(BaseModel):
    """A message, or a delta of one. vLLM has had two names for thoughts."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Token(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _ChosenToken(_Token):
    top_logprobs: list[_Token] = []


class _Tokens(BaseModel):
    content: list[_ChosenToken] | None = None


class _Choice(BaseModel):
    """A choice of a chat answer, in one piece or of a stream."""

    message: _Said | None = None
    delta: _Said | None = None
    logprobs: _Tokens | None = None
    finish_reason: str | None = None

    def plain(self) -> dict[str, Any]:
        """As a stream has it."""
        said = self.delta or self.message or _Said()
        return {
            "delta": said.model_dump(exclude_none=True),
            "logprobs": self.logprobs and self.logprobs.model_dump(),
        }


class _Answer(BaseModel):
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None


def _read(body: Mapping[str, Any]) -> _Answer:
    try:
        return _Answer.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise MalformedAnswerError(f"{first['loc']}: {first['msg']}") from error


class _Reader:
    """Reads an answer, whole or in parts, into a response."""

    def __init__(self, shape: ResponseShape) -> None:
        self._shape = shape
        self.finish = "stop"
        self.usage: Mapping[str, Any] = {}

    def read(self, body: Mapping[str, Any]) -> str:
        """The events that tell of it. Raises MalformedAnswerError."""
        answer = _read(body)
        self.usage = answer.usage or self.usage
        for choice in answer.choices:
            self.finish = choice.finish_reason or self.finish
        return self._shape.told(choice.plain() for choice in answer.choices)


def whole_response(body: Mapping[str, Any], shape: ResponseShape) -> str:
    """A chat answer in one piece, as a response. Raises MalformedAnswerError."""
    reader = _Reader(shape)
    reader.read(body)
    return shape.whole(reader.finish, reader.usage)


async def response_events(
    parts: AsyncIterator[dict[str, Any]],
    shape: ResponseShape,
    broken: Callable[[Exception], ApiError],
) -> AsyncIterator[str]:
    """A streamed chat answer, as the events of a response.

    `parts` raises ApiError where the answer ends before its end; `broken` says what an answer is
    that cannot be read.
    """
    reader = _Reader(shape)
    yield shape.begun()
    try:
        async for part in parts:
            yield reader.read(part)
    except ApiError as error:
        last = shape.failed(error)
    except MalformedAnswerError as error:
        last = shape.failed(broken(error))
    else:
        last = shape.ended(reader.finish, reader.usage)
    for event in last:
        yield event
