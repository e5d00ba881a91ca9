"""/tokenize and /detokenize where an upstream has the model: judged here, and answered there."""

from __future__ import annotations

import httpx2
from fastapi import FastAPI, Request
from fastapi.responses import Response

from deepseek_serving.backends.upstream import Upstream
from deepseek_serving.generation.scheduler import QueueFullError
from deepseek_serving.http.admission import Endpoint, Endpoints
from deepseek_serving.http.auth import Caller
from deepseek_serving.http.common import CallerDep, check_model, queue_full
from deepseek_serving.http.failures import not_taken, unavailable
from deepseek_serving.http.headers import REQUEST_ID
from deepseek_serving.http.middleware import STATE
from deepseek_serving.http.openapi import REPLIES
from deepseek_serving.http.schema.tokens import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
)
from deepseek_serving.http.upstream_refusals import Told, failed, refusal
from deepseek_serving.http.validation import PassedRequest, ReadPassed

JSON = "application/json"
# no model runs for it
SECONDS = 30.0


async def _ask(upstream: Upstream, asked: PassedRequest, request_id: str) -> httpx2.Response:
    headers = {"content-type": JSON, REQUEST_ID: request_id}
    try:
        return await upstream.client.post(
            asked.path, content=asked.body, headers=headers, timeout=SECONDS
        )
    except httpx2.ConnectError as error:
        upstream.lost()
        raise failed(503, "The engine does not answer; try again later.") from error
    except httpx2.HTTPError as error:
        raise failed(502, "The engine broke off before it answered.") from error


async def _pass(
    upstream: Upstream, asked: PassedRequest, request: Request, who: Caller
) -> Response:
    check_model(upstream, asked.model or upstream.release.model, who)
    if not upstream.healthy:
        raise not_taken() if upstream.draining else unavailable()
    try:
        async with upstream.gate.place(who.line):
            response = await _ask(upstream, asked, request.scope["state"][STATE])
    except QueueFullError as error:
        raise queue_full(error) from error
    if response.status_code != 200:
        told = await Told.of(response)
        raise refusal(told, upstream.max_len, asked.path, may_be_absent=True)
    if not response.headers.get("content-type", "").startswith(JSON):
        raise failed(502, "The engine failed to answer.")
    # as it came: reading millions of numbers would hold up others
    return Response(response.content, media_type=JSON)


def add_upstream_tokens(app: FastAPI, upstream: Upstream) -> Endpoints:
    known = upstream.settings.model, upstream.tokens
    there, back = ReadPassed("/tokenize", *known), ReadPassed("/detokenize", *known)

    async def ask(asked: PassedRequest, request: Request, who: Caller) -> Response:
        return await _pass(upstream, asked, request, who)

    @app.post(there.path, responses=REPLIES, tags=["tokens"])
    async def tokenize(
        _body: TokenizeTextRequest | TokenizeChatRequest, request: Request, who: CallerDep
    ) -> Response:
        """The tokens of a text, or of a conversation as the model gets it."""
        return await ask(there.read(await request.body()), request, who)

    @app.post(back.path, responses=REPLIES, tags=["tokens"])
    async def detokenize(_body: DetokenizeRequest, request: Request, who: CallerDep) -> Response:
        """The text of tokens."""
        return await ask(back.read(await request.body()), request, who)

    return {reading.path: Endpoint(reading, ask) for reading in (there, back)}
