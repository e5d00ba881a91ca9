"""The routes of the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp

from deepseek_serving.api.access import Access, Caller, caller
from deepseek_serving.api.document import ERRORS, REPLIES, publish
from deepseek_serving.api.embeddings import add_embeddings
from deepseek_serving.api.errors import ApiError, install
from deepseek_serving.api.replies import Answers, ChatShape, TextShape, stream, unavailable, whole
from deepseek_serving.api.schema import ChatRequest, CompletionRequest
from deepseek_serving.api.surround import Surround
from deepseek_serving.constrained import SchemaError
from deepseek_serving.embedding import Embedder
from deepseek_serving.policy.keys import KeyRing
from deepseek_serving.scheduler import ClosedError, QueueFullError
from deepseek_serving.service import Job, PromptTooLongError, Service, UnsupportedError
from deepseek_serving.text import TemplateError, TextError

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


def _check_model(service: Service, name: str) -> None:
    if name != service.release.model:
        raise ApiError(
            404,
            f"The model {name!r} does not exist here; this service has {service.release.model!r}.",
            param="model",
            code="model_not_found",
        )


def _refusal(error: Exception, param: str) -> ApiError:
    """What a job that cannot be begun is in OpenAI's terms."""
    if isinstance(error, PromptTooLongError):
        return ApiError(400, str(error), param=param, code="context_length_exceeded")
    if isinstance(error, SchemaError):
        message = f"The JSON schema cannot be enforced: {error}"
        return ApiError(400, message, param="response_format", code="invalid_json_schema")
    if isinstance(error, UnsupportedError):
        return ApiError(400, str(error), param=error.parameter, code="unsupported_value")
    return ApiError(400, str(error), param=param, code="invalid_value")


REFUSED = (PromptTooLongError, SchemaError, UnsupportedError, TemplateError, TextError)


def _start(service: Service, jobs: Sequence[Job], who: Caller) -> Answers:
    """Begin the answers, or say in OpenAI's terms why not."""
    reserved = sum(job.reserved for job in jobs)
    who.take("tokens", reserved)
    begun = False
    try:
        generations = service.start(jobs, who.line)
        begun = True
    except UnsupportedError as error:
        raise _refusal(error, "n") from error
    except QueueFullError as error:
        of_key = " of this key" if error.of_key else ""
        raise ApiError(
            429,
            f"Too many requests{of_key} are waiting; try again later.",
            kind="rate_limit_error",
            code="queue_full",
            headers={"retry-after": "1"},
        ) from error
    except ClosedError as error:
        raise unavailable() from error
    finally:
        if not begun:
            who.settle(reserved, 0)
    return Answers(service, generations, who, reserved)


async def _chat_job(service: Service, body: ChatRequest) -> Job:
    messages = [message.plain() for message in body.messages]
    tools, schema = body.called_tools, body.json_schema

    def make() -> Job:
        return service.chat(messages, body.options(), tools=tools, schema=schema)

    try:
        # a grammar takes milliseconds, and a wicked one more; the others are not to wait for it
        has_grammar = schema is not None or (tools is not None and tools.force)
        return await asyncio.to_thread(make) if has_grammar else make()
    except REFUSED as error:
        raise _refusal(error, "messages") from error


def _completion_jobs(service: Service, body: CompletionRequest) -> list[Job]:
    options = body.options()
    try:
        return [service.completion(service.tokens(prompt), options) for prompt in body.prompts()]
    except REFUSED as error:
        raise _refusal(error, "prompt") from error


def _echo(service: Service, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else service.tokenizer.decode(prompt)


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", responses=REPLIES, tags=["chat"])
    async def chat_completions(body: ChatRequest, request: Request, who: Who) -> Response:
        """Answer a conversation."""
        _check_model(service, body.model)
        job = await _chat_job(service, body)
        answers = _start(service, [job], who)
        shape = ChatShape(service, logprobs=bool(body.logprobs))
        if body.stream:
            return stream(answers, shape, include_usage=body.include_usage)
        return await whole(answers, shape, request)

    @app.post("/v1/completions", responses=REPLIES, tags=["completions"])
    async def completions(body: CompletionRequest, request: Request, who: Who) -> Response:
        """Go on with a text."""
        _check_model(service, body.model)
        jobs = _completion_jobs(service, body)
        answers = _start(service, jobs, who)
        echoes = [
            _echo(service, prompt) if body.echo else ""
            for prompt in body.prompts()
            for _choice in range(body.n or 1)
        ]
        shape = TextShape(service, logprobs=body.logprobs is not None, echoes=echoes)
        if body.stream:
            return stream(answers, shape, include_usage=body.include_usage)
        return await whole(answers, shape, request)


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["operation"], responses={503: {"description": "Not ready"}})
    async def readyz() -> Response:
        """Requests are accepted."""
        if service.scheduler.healthy:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503)

    @app.get("/metrics", tags=["operation"])
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(
            generate_latest(service.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )


def _cards(service: Service, embedder: Embedder | None) -> dict[str, dict[str, Any]]:
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
    cards = {release.model: card}
    if embedder is not None:
        cards[embedder.name] = {
            "id": embedder.name,
            "object": "model",
            "created": service.created,
            "owned_by": "onprem.deepseek",
            "release_digest": embedder.digest,
            "max_model_len": embedder.max_len,
        }
    return cards


def _add_models(app: FastAPI, service: Service, embedder: Embedder | None) -> None:
    cards = _cards(service, embedder)

    @app.get("/v1/models", responses=ERRORS, tags=["models"])
    async def models(who: Who) -> dict[str, Any]:
        """What this service has."""
        return {"object": "list", "data": list(cards.values())}

    @app.get("/v1/models/{name}", responses=ERRORS, tags=["models"])
    async def model(name: str, who: Who) -> dict[str, Any]:
        """One model."""
        if name not in cards:
            _check_model(service, name)
        return cards[name]


def create_app(
    service: Service, keys: KeyRing | None = None, embedder: Embedder | None = None
) -> ASGIApp:
    """The application; it stops the service's scheduler when it shuts down."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.scheduler.stop)
        if embedder is not None:
            await asyncio.to_thread(embedder.close)

    # without the documentation pages that it can make: they load their scripts from elsewhere
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    install(app)
    _add_probes(app, service)
    _add_models(app, service, embedder)
    _add_answers(app, service)
    if embedder is not None:
        add_embeddings(app, embedder)
    publish(app, has_keys=keys is not None)
    return Surround(Access(app, keys), service, ROUTES)
