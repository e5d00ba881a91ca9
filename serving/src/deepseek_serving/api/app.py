"""The routes, and what surrounds each of them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from deepseek_serving.api.errors import ApiError, install
from deepseek_serving.api.schema import ChatRequest
from deepseek_serving.scheduler import ClosedError, QueueFullError
from deepseek_serving.service import (
    Generation,
    GenerationFailedError,
    PromptTooLongError,
    Service,
)
from deepseek_serving.text import TemplateError

logger = logging.getLogger(__name__)

RELEASE_HEADER = b"x-deepseek-release"
ROUTES = frozenset({"/v1/chat/completions", "/v1/models", "/healthz", "/readyz", "/metrics"})
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class Surround:
    """Names the release in every response, counts it, and logs all but the probes' requests."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 500

        async def send_named(message: AsgiMessage) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                header = (RELEASE_HEADER, self._service.release.header.encode("ascii"))
                message["headers"] = [*message["headers"], header]
            await send(message)

        path = scope["path"]
        try:
            await self._app(scope, receive, send_named)
        finally:
            # only known paths: labels must not grow with what clients invent
            label = path if path in ROUTES else "other"
            self._service.metrics.requests.labels(label, str(status)).inc()
            if path not in QUIET:
                client = scope.get("state", {}).get("tls_client", "-")
                taken = time.monotonic() - began
                logger.info("%s %s %r %d %.3f s", client, scope["method"], path, status, taken)


def _start(service: Service, request: ChatRequest) -> Generation:
    """Begin the answer, or say in OpenAI's terms why not."""
    if request.model != service.release.model:
        raise ApiError(
            404,
            f"The model {request.model!r} does not exist here; this service has "
            f"{service.release.model!r}.",
            param="model",
            code="model_not_found",
        )
    try:
        return service.generate([m.plain() for m in request.messages], request.options())
    except TemplateError as error:
        raise ApiError(400, str(error), param="messages", code="invalid_value") from error
    except PromptTooLongError as error:
        raise ApiError(400, str(error), param="messages", code="context_length_exceeded") from error
    except QueueFullError as error:
        raise ApiError(
            429,
            "Too many requests are waiting; try again later.",
            kind="rate_limit_error",
            code="queue_full",
            headers={"retry-after": "1"},
        ) from error
    except ClosedError as error:
        raise _unavailable() from error


def _unavailable() -> ApiError:
    return ApiError(503, "The service is stopping or has failed.", kind="server_error")


def _usage(generation: Generation) -> dict[str, int]:
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
    }


def _base(service: Service, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": service.release.model,
        "system_fingerprint": service.release.digest[:12],
    }


async def _collect(generation: Generation) -> str:
    return "".join([piece async for piece in generation.text()])


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _whole(service: Service, generation: Generation, request: Request) -> Response:
    """The answer in one piece; abandoned as soon as the client hangs up."""
    answer = asyncio.ensure_future(_collect(generation))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not answer.done():
            answer.cancel()
        generation.close()
    if not answer.done():
        # nobody reads it; 499 is what the logs of proxies call this
        return Response(status_code=499)
    try:
        content = answer.result()
    except GenerationFailedError as error:
        raise _unavailable() from error
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, "refusal": None},
        "logprobs": None,
        "finish_reason": generation.finish_reason,
    }
    body = _base(service, "chat.completion")
    return JSONResponse({**body, "choices": [choice], "usage": _usage(generation)})


class _EventStream(StreamingResponse):
    """Ends the generation when the client hangs up, even before the first event."""

    def __init__(self, generation: Generation, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.close()


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"


async def _events(
    service: Service, generation: Generation, *, include_usage: bool
) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    base = _base(service, "chat.completion.chunk")
    if include_usage:
        base["usage"] = None

    def chunk(delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**base, "choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for piece in generation.text():
            yield chunk({"content": piece})
    except GenerationFailedError:
        # the status line is sent already; clients raise on an event with an error
        yield _event(_unavailable().body())
        return
    yield chunk({}, generation.finish_reason)
    if include_usage:
        yield _event({**base, "choices": [], "usage": _usage(generation)})
    yield "data: [DONE]\n\n"


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> Response:
        if service.scheduler.healthy:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(
            generate_latest(service.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )


def _add_models(app: FastAPI, service: Service) -> None:
    release = service.release
    card = {
        "id": release.model,
        "object": "model",
        "created": service.created,
        "owned_by": "onprem.deepseek",
        "release_version": release.version,
        "release_digest": release.digest,
        "max_model_len": service.scheduler.max_len,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        if name != release.model:
            raise ApiError(404, f"The model {name!r} does not exist here.", code="model_not_found")
        return card


def create_app(service: Service) -> ASGIApp:
    """The application; it stops the service's scheduler when it shuts down."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.scheduler.stop)

    # no generated documentation pages: they would load their scripts from elsewhere
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    install(app)
    _add_probes(app, service)
    _add_models(app, service)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        generation = _start(service, body)
        if not body.stream:
            return await _whole(service, generation, request)
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        events = _events(service, generation, include_usage=include_usage)
        return _EventStream(generation, events)

    return Surround(app, service)
