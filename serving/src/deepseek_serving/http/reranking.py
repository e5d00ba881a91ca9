"""The routes that say how well documents fit a question."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from deepseek_serving.backends.reranking import Pairs, Reranker, Scores
from deepseek_serving.generation.request import Scoring
from deepseek_serving.http.admission import Endpoint, Endpoints
from deepseek_serving.http.auth import Caller, caller
from deepseek_serving.http.encoder_texts import charged, read_texts
from deepseek_serving.http.offload import OffLoop
from deepseek_serving.http.openapi import SCORES
from deepseek_serving.http.schema.reranking import RerankRequest, ScoreRequest
from deepseek_serving.http.validation import ReadRerank, ReadScore

CallerDep = Annotated[Caller, Depends(caller)]
Written = Callable[[Scoring, Scores], dict[str, Any]]


async def _pairs(
    reranker: Reranker, off_loop: OffLoop, body: Scoring, line: str, param: str
) -> Pairs:
    def make() -> Pairs:
        return reranker.pairs(
            body.questions, body.documents, most=body.most, most_document=body.most_document
        )

    size = sum(map(len, body.documents)) + len(body.questions[0])
    return await read_texts(make, size, off_loop, line, param)


async def _score(
    reranker: Reranker, off_loop: OffLoop, body: Scoring, who: Caller, param: str, written: Written
) -> Response:
    if body.model != reranker.name or not who.may_use(body.model):
        raise who.no_model(
            body.model, f"The model {body.model!r} scores no texts here; {reranker.name!r} does."
        )
    pairs = await _pairs(reranker, off_loop, body, who.line, param)
    with charged(who, pairs.tokens):
        scores = await reranker.score(pairs, raw=body.raw)
    usage = {"prompt_tokens": scores.tokens, "total_tokens": scores.tokens}
    return JSONResponse({**written(body, scores), "model": reranker.name, "usage": usage})


def _ranked(body: Scoring, scores: Scores) -> dict[str, Any]:
    """As Jina's API has it, and Cohere's."""
    order = sorted(range(len(scores.values)), key=lambda index: -scores.values[index])
    results: Sequence[dict[str, Any]] = [
        {
            "index": index,
            "relevance_score": scores.values[index],
            **({"document": {"text": body.documents[index]}} if body.shows else {}),
        }
        for index in order[: body.top]
    ]
    return {"id": f"rerank-{uuid.uuid4().hex}", "object": "list", "results": results}


def _listed(_body: Scoring, scores: Scores) -> dict[str, Any]:
    """As vLLM's API has it."""
    data = [
        {"index": index, "object": "score", "score": value}
        for index, value in enumerate(scores.values)
    ]
    created = int(time.time())
    return {"id": f"score-{uuid.uuid4().hex}", "object": "list", "created": created, "data": data}


def add_reranking(app: FastAPI, reranker: Reranker, off_loop: OffLoop) -> Endpoints:
    async def rank(body: Scoring, _request: Request, who: Caller) -> Response:
        return await _score(reranker, off_loop, body, who, "documents", _ranked)

    async def score(body: Scoring, _request: Request, who: Caller) -> Response:
        return await _score(reranker, off_loop, body, who, "text_2", _listed)

    @app.post("/v1/rerank", responses=SCORES, tags=["rerank"])
    @app.post("/v2/rerank", responses=SCORES, tags=["rerank"])
    @app.post("/rerank", responses=SCORES, tags=["rerank"])
    async def rerank(body: RerankRequest, request: Request, who: CallerDep) -> Response:
        """Documents, the one that fits a question best first."""
        return await rank(body.asked(), request, who)

    @app.post("/v1/score", responses=SCORES, tags=["rerank"])
    @app.post("/score", responses=SCORES, tags=["rerank"])
    async def scores(body: ScoreRequest, request: Request, who: CallerDep) -> Response:
        """How well pairs of texts fit."""
        return await score(body.asked(), request, who)

    ranking, scoring = Endpoint(ReadRerank(), rank), Endpoint(ReadScore(), score)
    return {
        **dict.fromkeys(("/v1/rerank", "/v2/rerank", "/rerank"), ranking),
        **dict.fromkeys(("/v1/score", "/score"), scoring),
    }
