"""Responses of an engine of our own: in one piece, or as events while they are generated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from deepseek_serving.backends.errors import GenerationFailedError
from deepseek_serving.http.answers import Answers
from deepseek_serving.http.chat_shape import ChatShape
from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.failures import failure
from deepseek_serving.http.hang_up import Watch, left
from deepseek_serving.http.responses_input import in_our_terms
from deepseek_serving.http.responses_shape import ResponseShape
from deepseek_serving.http.streaming import EventStream

# read twice, as what it is and as a chat request, so half as much as of others takes as long
SMALL_BODY = 32 * 2**10


def _renamed(error: ApiError) -> ApiError:
    message, param = in_our_terms(str(error), error.param)
    return ApiError(
        error.status,
        message,
        kind=error.kind,
        param=param,
        code=error.code,
        headers=error.headers,
    )


@contextmanager
def in_terms_of_responses() -> Iterator[None]:
    """Errors of the chat request that a response is made by name its own parameters."""
    try:
        yield
    except ApiError as error:
        raise _renamed(error) from error


async def _choices(answers: Answers, chat: ChatShape) -> AsyncIterator[list[dict[str, Any]]]:
    """The only answer, as chat completions stream it."""
    async for index, chunks in answers.merged():
        if chunks is not None:
            yield [chat.chunk(index, chunk) for chunk in chunks]


async def whole_response(
    answers: Answers, chat: ChatShape, shape: ResponseShape, request: Request
) -> Response:
    """The response in one piece; abandoned as soon as the client hangs up."""
    watch = Watch(answers, request)
    try:
        async for choices in _choices(answers, chat):
            shape.told(choices)
    except GenerationFailedError as error:
        if watch.gone:
            return left()
        raise _renamed(failure(error)) from error
    finally:
        watch.close()
        answers.close()
    (generation,) = answers.generations
    whole = shape.whole(generation.finish_reason, answers.usage())
    return Response(whole, media_type="application/json")


async def _events(answers: Answers, chat: ChatShape, shape: ResponseShape) -> AsyncIterator[str]:
    yield shape.begun()
    try:
        async for choices in _choices(answers, chat):
            yield shape.told(choices)
    except GenerationFailedError as error:
        last = shape.failed(_renamed(failure(error)))
    else:
        (generation,) = answers.generations
        last = shape.ended(generation.finish_reason, answers.usage())
    for event in last:
        yield event


def streamed_response(answers: Answers, chat: ChatShape, shape: ResponseShape) -> Response:
    """The response as server-sent events."""
    return EventStream(answers, _events(answers, chat, shape))
