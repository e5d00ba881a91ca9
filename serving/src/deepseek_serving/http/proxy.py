"""Requests that another server answers: checked and counted here, and passed on as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp

from deepseek_serving.backends.encoders import Encoders
from deepseek_serving.backends.upstream import Upstream
from deepseek_serving.http.admission import Endpoint, Endpoints
from deepseek_serving.http.auth import Caller
from deepseek_serving.http.common import CallerDep, assemble
from deepseek_serving.http.openapi import REPLIES, Responses, error_response
from deepseek_serving.http.proxied import Events, ProxiedRequest, forward
from deepseek_serving.http.responses import SMALL_BODY, in_terms_of_responses
from deepseek_serving.http.responses_output import MalformedAnswerError, Output
from deepseek_serving.http.responses_shape import ResponseShape
from deepseek_serving.http.responses_upstream import response_events, whole_response
from deepseek_serving.http.schema.chat import ChatRequest
from deepseek_serving.http.schema.completions import CompletionRequest
from deepseek_serving.http.schema.responses import ResponsesRequest
from deepseek_serving.http.upstream_encoders import add_upstream_embeddings, add_upstream_scores
from deepseek_serving.http.upstream_tokens import add_upstream_tokens
from deepseek_serving.http.validation import (
    ReadForwarded,
    ReadResponse,
    ResponseAsked,
    UpstreamRequest,
)
from deepseek_serving.policy.catalogue import Catalogue
from deepseek_serving.policy.keys import KeyRing

FORWARDED_PATHS = ("/v1/chat/completions", "/v1/completions")
FORWARDED: Responses = {**REPLIES, 502: error_response("The engine broke off")}


async def _answer(proxied: ProxiedRequest, asked: UpstreamRequest) -> Response:
    response = await proxied.begin()
    if asked.stream:
        return Events(proxied, proxied.events())
    try:
        return JSONResponse(await proxied.whole(response))
    finally:
        await proxied.close()


async def _respond(
    proxied: ProxiedRequest, asked: UpstreamRequest, shape: ResponseShape
) -> Response:
    """The same as a response."""
    response = await proxied.begin()
    if asked.stream:
        events = response_events(proxied.parts(), shape, proxied.broken)
        return Events(proxied, events)
    try:
        whole = whole_response(await proxied.whole(response), shape)
        return Response(whole, media_type="application/json")
    except MalformedAnswerError as error:
        raise proxied.broken(error) from error
    finally:
        await proxied.close()


def _add_generation(app: FastAPI, upstream: Upstream) -> Endpoints:
    chat, complete = (
        ReadForwarded(
            path,
            upstream.settings.model,
            upstream.tokens,
            tuple(upstream.settings.media),
            upstream.developer,
        )
        for path in FORWARDED_PATHS
    )

    async def answer(asked: UpstreamRequest, request: Request, who: Caller) -> Response:
        return await forward(upstream, asked, request, who, _answer)

    @app.post(chat.path, responses=FORWARDED, tags=["chat"])
    async def chat_completions(_body: ChatRequest, request: Request, who: CallerDep) -> Response:
        """Answer a conversation."""
        return await answer(chat.read(await request.body()), request, who)

    @app.post(complete.path, responses=FORWARDED, tags=["completions"])
    async def completions(_body: CompletionRequest, request: Request, who: CallerDep) -> Response:
        """Go on with a text."""
        return await answer(complete.read(await request.body()), request, who)

    respond = ReadResponse(chat)

    async def forward_response(
        asked: ResponseAsked[UpstreamRequest], request: Request, who: Caller
    ) -> Response:
        output = Output(encodes_thoughts=asked.encodes_thoughts)
        shape = ResponseShape(asked.chat.model, asked.echo, output)
        with in_terms_of_responses():
            return await forward(upstream, asked.chat, request, who, partial(_respond, shape=shape))

    @app.post("/v1/responses", responses=FORWARDED, tags=["responses"])
    async def responses(_body: ResponsesRequest, request: Request, who: CallerDep) -> Response:
        """Answer a conversation, as a response."""
        return await forward_response(respond.read(await request.body()), request, who)

    return {
        **add_upstream_tokens(app, upstream),
        **{reading.path: Endpoint(reading, answer) for reading in (chat, complete)},
        "/v1/responses": Endpoint(respond, forward_response, SMALL_BODY),
    }


# by upstream.task
ANSWERS: Mapping[str, Callable[[FastAPI, Upstream], Endpoints]] = {
    "generate": _add_generation,
    "embed": add_upstream_embeddings,
    "score": add_upstream_scores,
}


def create_forwarding_app(
    upstream: Upstream,
    keys: KeyRing | None = None,
    encoders: Encoders | None = None,
    catalogue: Catalogue | None = None,
) -> ASGIApp:
    """The application in front of an engine that is another server."""
    add = ANSWERS[upstream.settings.task]
    return assemble(upstream, lambda app, _off_loop: add(app, upstream), keys, encoders, catalogue)
