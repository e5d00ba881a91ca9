"""Vectors and scores where an upstream has the encoder: judged and counted here, made there."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from deepseek_serving.backends.upstream import Upstream
from deepseek_serving.http.admission import Endpoint, Endpoints
from deepseek_serving.http.auth import Caller
from deepseek_serving.http.common import CallerDep
from deepseek_serving.http.openapi import EMBEDDINGS, REPLIES, SCORES, Responses, error_response
from deepseek_serving.http.proxied import ProxiedRequest, forward
from deepseek_serving.http.schema.embeddings import EmbeddingRequest
from deepseek_serving.http.schema.reranking import RerankRequest, ScoreRequest
from deepseek_serving.http.validation import ReadEncoded, UpstreamRequest

FAILURES: Responses = {
    502: error_response("The engine broke off"),
    **{status: REPLIES[status] for status in (503, 504)},
}


async def _answer(proxied: ProxiedRequest, _asked: UpstreamRequest) -> Response:
    response = await proxied.begin()
    try:
        return Response(await proxied.passed(response), media_type="application/json")
    finally:
        await proxied.close()


def _endpoint(upstream: Upstream, path: str) -> Endpoint:
    async def answer(asked: UpstreamRequest, request: Request, who: Caller) -> Response:
        return await forward(upstream, asked, request, who, _answer)

    return Endpoint(ReadEncoded(path, upstream.settings.model, upstream.tokens), answer)


async def _answered(endpoint: Endpoint, request: Request, who: Caller) -> Response:
    return await endpoint.answer(endpoint.reading.read(await request.body()), request, who)


def add_upstream_embeddings(app: FastAPI, upstream: Upstream) -> Endpoints:
    endpoint = _endpoint(upstream, "/v1/embeddings")

    @app.post("/v1/embeddings", responses={**EMBEDDINGS, **FAILURES}, tags=["embeddings"])
    async def embeddings(_body: EmbeddingRequest, request: Request, who: CallerDep) -> Response:
        """Vectors of texts."""
        return await _answered(endpoint, request, who)

    return {"/v1/embeddings": endpoint}


def add_upstream_scores(app: FastAPI, upstream: Upstream) -> Endpoints:
    ranking, scoring = _endpoint(upstream, "/v1/rerank"), _endpoint(upstream, "/v1/score")
    said: Responses = {**SCORES, **FAILURES}

    @app.post("/v1/rerank", responses=said, tags=["rerank"])
    @app.post("/v2/rerank", responses=said, tags=["rerank"])
    @app.post("/rerank", responses=said, tags=["rerank"])
    async def rerank(_body: RerankRequest, request: Request, who: CallerDep) -> Response:
        """Documents, the one that fits a question best first."""
        return await _answered(ranking, request, who)

    @app.post("/v1/score", responses=said, tags=["rerank"])
    @app.post("/score", responses=said, tags=["rerank"])
    async def scores(_body: ScoreRequest, request: Request, who: CallerDep) -> Response:
        """How well pairs of texts fit."""
        return await _answered(scoring, request, who)

    return {
        **dict.fromkeys(("/v1/rerank", "/v2/rerank", "/rerank"), ranking),
        **dict.fromkeys(("/v1/score", "/score"), scoring),
    }
