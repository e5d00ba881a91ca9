"""The route that makes vectors of texts."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response

from deepseek_serving.backends.embedding import Embedder
from deepseek_serving.generation.request import Embedding
from deepseek_serving.http.admission import Endpoint, Endpoints
from deepseek_serving.http.auth import Caller, caller
from deepseek_serving.http.encoder_texts import charged, read_texts
from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.offload import OffLoop
from deepseek_serving.http.openapi import EMBEDDINGS
from deepseek_serving.http.schema.embeddings import EmbeddingRequest
from deepseek_serving.http.validation import ReadEmbedding


def _encoded(vector: npt.NDArray[np.float32], form: str | None) -> str | list[float]:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]


def _check(embedder: Embedder, body: Embedding, who: Caller) -> None:
    if body.model != embedder.name or not who.may_use(body.model):
        raise who.no_model(
            body.model,
            f"The model {body.model!r} makes no embeddings here; {embedder.name!r} does.",
        )
    if body.dimensions not in (None, embedder.size):
        raise ApiError(
            400,
            f"dimensions: this model's embeddings have {embedder.size}, and no fewer.",
            param="dimensions",
            code="invalid_value",
        )


async def _tokens(
    embedder: Embedder, off_loop: OffLoop, body: Embedding, line: str
) -> list[Sequence[int]]:
    def make() -> list[Sequence[int]]:
        return [embedder.tokens(text) for text in body.texts]

    return await read_texts(make, sum(map(len, body.texts)), off_loop, line, "input")


async def _embed(embedder: Embedder, off_loop: OffLoop, body: Embedding, who: Caller) -> Response:
    _check(embedder, body, who)
    texts = await _tokens(embedder, off_loop, body, who.line)
    with charged(who, sum(map(len, texts))):
        made = await embedder.embed(texts)
    usage = {"prompt_tokens": made.tokens, "total_tokens": made.tokens}
    tail = {"model": embedder.name, "usage": usage}
    entries = ",".join([entry async for entry in _entries(made.vectors, body.encoding_format)])
    return Response(
        f'{{"object":"list","data":[{entries}],{json.dumps(tail)[1:]}',
        media_type="application/json",
    )


async def _entries(
    vectors: Iterable[npt.NDArray[np.float32]], form: str | None
) -> AsyncIterator[str]:
    """Each as JSON; thousands of them take seconds, in which the others go on."""
    for index, vector in enumerate(vectors):
        yield json.dumps(
            {"object": "embedding", "index": index, "embedding": _encoded(vector, form)}
        )
        await asyncio.sleep(0)


def add_embeddings(app: FastAPI, embedder: Embedder, off_loop: OffLoop) -> Endpoints:
    async def embed(body: Embedding, _request: Request, who: Caller) -> Response:
        return await _embed(embedder, off_loop, body, who)

    @app.post("/v1/embeddings", responses=EMBEDDINGS, tags=["embeddings"])
    async def embeddings(
        body: EmbeddingRequest, request: Request, who: Annotated[Caller, Depends(caller)]
    ) -> Response:
        """Vectors of texts."""
        return await embed(body.asked(), request, who)

    return {"/v1/embeddings": Endpoint(ReadEmbedding(), embed)}
