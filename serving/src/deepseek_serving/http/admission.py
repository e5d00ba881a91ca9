"""The one way in for bodies: bounded in bytes, parts, time and memory before anything is done.

FastAPI has these routes too, but makes only the document from them: it would read a body whole and
judge it in the event loop, and takes longer than a short answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.message import Message as Header
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.errors import ApiError, failed
from deepseek_serving.http.headers import BODY_LIMIT, decisive
from deepseek_serving.http.validation import Reading
from deepseek_serving.http.validation_pool import ValidationPool

# far more than a context of a million tokens
LARGEST_BODY = 8 * 2**20
# judged in the event loop, where it takes a millisecond or two at most
SMALL_BODY = 64 * 2**10
# for a large body, which holds a place while it comes
BODY_SECONDS = 10.0


@dataclass(frozen=True)
class Endpoint:
    """How a body is read, and what answers what it asks for, a request and a caller."""

    reading: Reading
    answer: Callable[[Any, Request, Any], Awaitable[Response]]
    # bytes of a body that is read in the event loop
    small: int = SMALL_BODY


Endpoints = Mapping[str, Endpoint]


class _GoneError(Exception):
    """The client hung up before its request was complete."""


def largest_body(headers: Mapping[str, str]) -> int:
    """Bytes that the body of a request may have: a gateway may allow fewer than the service."""
    said = headers.get(BODY_LIMIT, "")
    if said.isascii() and said.isdigit() and len(said) < 16:
        return min(int(said), LARGEST_BODY)
    return LARGEST_BODY


def too_large(most: int) -> ApiError:
    return ApiError(
        413,
        f"The request body is larger than {most} bytes.",
        code="request_too_large",
    )


def _too_slow() -> ApiError:
    return ApiError(
        408,
        f"The request body was not complete within {BODY_SECONDS:.0f} s.",
        code="request_too_slow",
    )


def _check_type(headers: Mapping[str, str]) -> None:
    """OpenAI's clients all say it; without it the body is taken for JSON, as by FastAPI."""
    kind = headers.get("content-type", "application/json")
    if kind == "application/json":
        return
    header = Header()
    header["content-type"] = kind
    main, sub = header.get_content_maintype(), header.get_content_subtype()
    if main != "application" or not (sub == "json" or sub.endswith("+json")):
        raise ApiError(
            400,
            "The request body must be JSON, with the header Content-Type: application/json.",
            code="invalid_value",
        )


def _refusal(error: RefusedError) -> ApiError:
    return ApiError(400, error.message, param=error.param, code=error.code)


class _Body:
    """What has come of a body."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self.chunks: list[bytes] = []
        self.size = 0
        self.complete = False

    async def read(self, enough: int) -> None:
        """Until it is complete, or has more bytes than `enough`. Raises ApiError."""
        while not self.complete and self.size <= enough:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            chunk = message.get("body", b"")
            self.size += len(chunk)
            if chunk:
                self.chunks.append(chunk)
            self.complete = not message.get("more_body", False)
            if self.size > self._most:
                raise too_large(self._most)


class Admission:
    """Reads and validates the body of every POST request for `endpoints`; the rest has none."""

    def __init__(self, app: ASGIApp, endpoints: Endpoints, pool: ValidationPool) -> None:
        self._app = app
        self._endpoints = endpoints
        self._pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        endpoint = self._endpoints.get(scope["path"]) if is_post else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        caller = scope["state"]["caller"]
        try:
            asked = await self._asked(endpoint, request, caller.line)
            response = await endpoint.answer(asked, request, caller)
        except RefusedError as error:
            response = _refusal(error).response()
        except ApiError as error:
            response = error.response()
        except _GoneError:
            # nobody reads it; 499 is what the logs of proxies call this
            response = Response(status_code=499)
        except Exception:
            await failed().response()(scope, receive, send)
            # for the server's log
            raise
        await response(scope, receive, send)

    async def _asked(self, endpoint: Endpoint, request: Request, line: str) -> Any:
        headers = decisive(request.scope)
        _check_type(headers)
        body = _Body(request.receive, largest_body(headers))
        await body.read(endpoint.small)
        if body.size <= endpoint.small:
            return endpoint.reading.read(b"".join(body.chunks))
        async with self._pool.place(line):
            try:
                await asyncio.wait_for(body.read(LARGEST_BODY), BODY_SECONDS)
            except asyncio.TimeoutError as error:
                raise _too_slow() from error
            return await self._pool.judge(endpoint.reading, body.chunks)
