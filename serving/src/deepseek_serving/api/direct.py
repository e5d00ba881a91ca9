"""A short way for requests that generate: past the framework, which takes longer than they do.

FastAPI has these routes too. It makes the document from them, and it answers every request that is
not as it should be, so what is wrong is told in one place only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek_serving.api.errors import ApiError, failed


@dataclass(frozen=True)
class Endpoint:
    """What answers a body, a request and a caller, and what it takes for a body."""

    body: type[BaseModel]
    answer: Callable[[Any, Request, Any], Awaitable[Response]]


Endpoints = Mapping[str, Endpoint]


def _repeatable(receive: Receive) -> tuple[Receive, Receive]:
    """The same messages twice: the second begins with what the first has read."""
    read: deque[Message] = deque()

    async def first() -> Message:
        message = await receive()
        read.append(message)
        return message

    async def again() -> Message:
        return read.popleft() if read else await receive()

    return first, again


class Direct:
    """Takes POST requests for `endpoints` whose body is right; the rest is the framework's."""

    def __init__(self, app: ASGIApp, endpoints: Endpoints) -> None:
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        endpoint = self._endpoints.get(scope["path"]) if is_post else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        first, again = _repeatable(receive)
        request = Request(scope, first)
        body = await _read(endpoint, request)
        if body is None:
            await self._app(scope, again, send)
            return
        try:
            response = await endpoint.answer(body, request, scope["state"]["caller"])
        except ApiError as error:
            response = error.response()
        except Exception:
            await failed().response()(scope, receive, send)
            # for the server's log
            raise
        await response(scope, receive, send)


async def _read(endpoint: Endpoint, request: Request) -> BaseModel | None:
    """The body, if all is well with it."""
    if request.headers.get("content-type") != "application/json":
        return None
    try:
        return endpoint.body.model_validate(await request.json())
    except Exception:
        # the framework comes upon the same, and knows what to say
        return None
