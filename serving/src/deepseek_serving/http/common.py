"""What every service has, whatever generates behind it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from deepseek_serving.backends.embedding import Embedder
from deepseek_serving.generation.scheduler import QueueFullError
from deepseek_serving.http.admission import Admission, Endpoints
from deepseek_serving.http.auth import Access, Caller, caller
from deepseek_serving.http.embeddings import add_embeddings
from deepseek_serving.http.errors import ApiError, install
from deepseek_serving.http.headers import OnceOnly
from deepseek_serving.http.middleware import RequestContextMiddleware
from deepseek_serving.http.offload import OffLoop
from deepseek_serving.http.openapi import ERRORS, publish
from deepseek_serving.http.validation_pool import Judges
from deepseek_serving.metrics import KeyState, Metrics
from deepseek_serving.policy.keys import KeyRing
from deepseek_serving.trust.release import Release

ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
)

Who = Annotated[Caller, Depends(caller)]


class Served(Protocol):
    """A verified release, and whether requests for it are accepted."""

    release: Release
    metrics: Metrics
    created: int

    @property
    def max_len(self) -> int | None:
        """Tokens of the longest sequence, where that is known."""

    @property
    def healthy(self) -> bool:
        """Whether requests are accepted."""

    @property
    def failed(self) -> bool:
        """Whether only another process can help, and this one can still end by itself."""

    @property
    def stuck(self) -> bool:
        """Whether only another process can help, and somebody has to end this one."""

    def drain(self) -> None:
        """Take no more requests; those that are here go on."""

    async def begin(self) -> None:
        """Get ready; ServingError if that cannot be."""

    async def close(self) -> None:
        """End, once nothing is asked any more."""


def check_model(served: Served, name: str) -> None:
    if name != served.release.model:
        raise ApiError(
            404,
            f"The model {name!r} does not exist here; this service has {served.release.model!r}.",
            param="model",
            code="model_not_found",
        )


def queue_full(error: QueueFullError) -> ApiError:
    """What is said to those for whom there is no room in the line."""
    of_key = " of this key" if error.of_key else ""
    return ApiError(
        429,
        f"Too many requests{of_key} are waiting; try again later.",
        kind="rate_limit_error",
        code="queue_full",
        headers={"retry-after": "1"},
    )


def add_probes(app: FastAPI, served: Served) -> None:
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["operation"], responses={503: {"description": "Not ready"}})
    async def readyz() -> Response:
        """Requests are accepted."""
        if served.healthy:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503)

    @app.get("/metrics", tags=["operation"])
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(
            generate_latest(served.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )


def _cards(served: Served, embedder: Embedder | None) -> dict[str, dict[str, Any]]:
    release = served.release
    card: dict[str, Any] = {
        "id": release.model,
        "object": "model",
        "created": served.created,
        "owned_by": "onprem.deepseek",
        "release_version": release.version,
        "release_digest": release.digest,
    }
    if served.max_len is not None:
        card["max_model_len"] = served.max_len
    cards = {release.model: card}
    if embedder is not None:
        cards[embedder.name] = {
            "id": embedder.name,
            "object": "model",
            "created": served.created,
            "owned_by": "onprem.deepseek",
            "release_digest": embedder.digest,
            "max_model_len": embedder.max_len,
        }
    return cards


def add_models(app: FastAPI, served: Served, embedder: Embedder | None) -> None:
    @app.get("/v1/models", responses=ERRORS, tags=["models"])
    async def models(who: Who) -> dict[str, Any]:
        """What this service has."""
        return {"object": "list", "data": list(_cards(served, embedder).values())}

    @app.get("/v1/models/{name}", responses=ERRORS, tags=["models"])
    async def model(name: str, who: Who) -> dict[str, Any]:
        """One model."""
        cards = _cards(served, embedder)
        if name not in cards:
            check_model(served, name)
        return cards[name]


def assemble(
    served: Served,
    add_answers: Callable[[FastAPI, OffLoop], Endpoints],
    keys: KeyRing | None,
    embedder: Embedder | None,
) -> ASGIApp:
    """The application; it ends what it serves when it shuts down."""

    judges, off_loop = Judges(), OffLoop()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # what is loaded stays: looking through it for garbage would stop requests for milliseconds
        # in a thread, so that what streams and threads need is imported before the first request
        await run_in_threadpool(gc.collect)
        gc.freeze()
        judges.begin()
        yield
        await judges.close()
        off_loop.close()
        await served.close()
        if embedder is not None:
            await asyncio.to_thread(embedder.close)

    # without the documentation pages that it can make: they load their scripts from elsewhere; and
    # without redirects: they would go to what the client calls this host
    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    install(app)
    add_probes(app, served)
    add_models(app, served, embedder)
    endpoints = dict(add_answers(app, off_loop))
    if keys is not None:
        served.metrics.registry.register(KeyState(keys))
    if embedder is not None:
        endpoints |= add_embeddings(app, embedder, off_loop)
    publish(app, has_keys=keys is not None)
    return RequestContextMiddleware(
        OnceOnly(Access(Admission(app, endpoints, judges), keys)), served, ROUTES
    )
