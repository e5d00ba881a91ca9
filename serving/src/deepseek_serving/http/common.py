"""What every service has, whatever generates behind it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

import deepseek_serving
from deepseek_serving.backends.base import Backend
from deepseek_serving.backends.encoders import Encoders
from deepseek_serving.generation.scheduler import QueueFullError
from deepseek_serving.http.admission import Admission, Endpoints
from deepseek_serving.http.auth import Access, Caller, caller
from deepseek_serving.http.embeddings import add_embeddings
from deepseek_serving.http.errors import ApiError, install
from deepseek_serving.http.fallback import answers_instead
from deepseek_serving.http.headers import OnceOnly
from deepseek_serving.http.middleware import RequestContextMiddleware
from deepseek_serving.http.offload import OffLoop
from deepseek_serving.http.openapi import ERRORS, HEALTH, publish
from deepseek_serving.http.reranking import add_reranking
from deepseek_serving.http.unread import UnreadBodies
from deepseek_serving.http.validation_pool import ValidationPool
from deepseek_serving.metrics import KeyState
from deepseek_serving.policy.catalogue import Catalogue
from deepseek_serving.policy.keys import KeyRing

CallerDep = Annotated[Caller, Depends(caller)]


def check_model(backend: Backend, name: str, who: Caller) -> None:
    mine = backend.release.model
    known = name in (mine, *backend.aliases) or (answers_instead(mine) and who.may_use(mine))
    if not known or not who.may_use(name):
        raise who.no_model(
            name,
            f"The model {name!r} does not exist here; this service has {backend.release.model!r}.",
        )


def queue_full(error: QueueFullError) -> ApiError:
    """What is said to a client for whose request the queue has no room."""
    of_key = " of this key" if error.of_key else ""
    return ApiError(
        429,
        f"Too many requests{of_key} are waiting; try again later.",
        kind="rate_limit_error",
        code="queue_full",
        headers={"retry-after": "1"},
    )


def add_probes(app: FastAPI, backend: Backend) -> None:
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/version", responses=ERRORS, tags=["operation"])
    async def version(who: CallerDep) -> dict[str, str]:
        """What answers here."""
        return {
            "version": deepseek_serving.__version__,
            "server": "onprem.deepseek",
            "release": backend.release.header,
        }

    @app.get("/health", tags=["operation"], response_class=Response, responses=HEALTH)
    async def health() -> Response:
        """Requests are accepted, as clients of such servers ask for it."""
        if backend.healthy:
            return Response()
        raise ApiError(
            503,
            "No inference worker is ready. Try again later.",
            kind="server_error",
            code="no_worker_ready",
            headers={"retry-after": "5"},
        )

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        """Requests are accepted."""
        if backend.healthy:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(
            generate_latest(backend.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )


def _cards(backend: Backend, encoders: Encoders, catalogue: Catalogue) -> dict[str, dict[str, Any]]:
    """What is said of each name; of what other workers of the site have, which names it has."""
    release = backend.release
    card: dict[str, Any] = {
        "id": release.model,
        "object": "model",
        "created": backend.created,
        "owned_by": "onprem.deepseek",
        "release_version": release.version,
        "release_digest": release.digest,
        "root": release.model,
        "parent": None,
    }
    if backend.max_len is not None:
        card["max_model_len"] = backend.max_len
    cards: dict[str, dict[str, Any]] = {}
    shared = ("object", "created", "owned_by")
    for model, aliases in catalogue.models.items():
        mine = card if model == release.model else {name: card[name] for name in shared}
        cards[model] = {**mine, "id": model, "root": model, "parent": None}
        cards |= {name: {**cards[model], "id": name, "parent": model} for name in aliases}
    for encoder in encoders:
        cards[encoder.name] = {
            "id": encoder.name,
            "object": "model",
            "created": backend.created,
            "owned_by": "onprem.deepseek",
            "release_digest": encoder.digest,
            "max_model_len": encoder.max_len,
        }
    return cards


def add_models(app: FastAPI, backend: Backend, encoders: Encoders, catalogue: Catalogue) -> None:
    def visible(who: Caller) -> dict[str, dict[str, Any]]:
        cards = _cards(backend, encoders, catalogue)
        return {name: card for name, card in cards.items() if who.may_use(name)}

    @app.get("/v1/models", responses=ERRORS, tags=["models"])
    async def models(who: CallerDep) -> dict[str, Any]:
        """The models of the site that the caller may use."""
        return {"object": "list", "data": list(visible(who).values())}

    @app.get("/v1/models/{name:path}", responses=ERRORS, tags=["models"])
    async def model(name: str, who: CallerDep) -> dict[str, Any]:
        """One model."""
        cards = visible(who)
        if name not in cards:
            raise who.no_model(
                name,
                f"The model {name!r} does not exist here; there are {', '.join(map(repr, cards))}.",
            )
        return cards[name]


def assemble(
    backend: Backend,
    add_answers: Callable[[FastAPI, OffLoop], Endpoints],
    keys: KeyRing | None,
    encoders: Encoders | None,
    catalogue: Catalogue | None,
) -> ASGIApp:
    """The application; it ends what it serves when it shuts down."""
    pool, off_loop = ValidationPool(), OffLoop()
    served = encoders or Encoders()
    site = catalogue or Catalogue({backend.release.model: backend.aliases})

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # what is loaded stays: looking through it for garbage would stop requests for milliseconds
        # in a thread, so that what streams and threads need is imported before the first request
        await run_in_threadpool(gc.collect)
        gc.freeze()
        pool.begin()
        yield
        await pool.close()
        off_loop.close()
        await backend.close()
        await asyncio.to_thread(served.close)

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
    add_probes(app, backend)
    add_models(app, backend, served, site)
    endpoints = dict(add_answers(app, off_loop))
    models = dict.fromkeys(endpoints, (backend.release.model, *backend.aliases))
    if keys is not None:
        backend.metrics.registry.register(KeyState(keys))
    if served.embedder is not None:
        added = add_embeddings(app, served.embedder, off_loop)
        endpoints |= added
        models |= dict.fromkeys(added, (served.embedder.name,))
    if served.reranker is not None:
        added = add_reranking(app, served.reranker, off_loop)
        endpoints |= added
        models |= dict.fromkeys(added, (served.reranker.name,))
    publish(app, has_keys=keys is not None, models=models, own=list(_cards(backend, served, site)))
    return UnreadBodies(
        RequestContextMiddleware(
            OnceOnly(Access(Admission(app, endpoints, pool), keys, site)), backend
        )
    )
