"""Answers of an engine of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.types import ASGIApp

from deepseek_serving.api.access import Caller
from deepseek_serving.api.common import Who, assemble, check_model, queue_full
from deepseek_serving.api.direct import Endpoint, Endpoints
from deepseek_serving.api.document import REPLIES
from deepseek_serving.api.errors import ApiError
from deepseek_serving.api.replies import (
    Answers,
    ChatShape,
    TextShape,
    disconnected,
    left,
    not_taken,
    stream,
    unavailable,
    whole,
)
from deepseek_serving.api.schema import ChatRequest, CompletionRequest
from deepseek_serving.constrained import SchemaError
from deepseek_serving.embedding import Embedder
from deepseek_serving.policy.keys import KeyRing
from deepseek_serving.scheduler import ClosedError, QueueFullError
from deepseek_serving.service import Job, PromptTooLongError, Service, UnsupportedError
from deepseek_serving.text import TemplateError, TextError
from deepseek_serving.trials import TrialsBusyError, TrialsEndedError


def _refusal(error: Exception, param: str) -> ApiError:
    """What a job that cannot be begun is in OpenAI's terms."""
    if isinstance(error, PromptTooLongError):
        return ApiError(400, str(error), param=param, code="context_length_exceeded")
    if isinstance(error, SchemaError):
        message = f"The JSON schema cannot be enforced: {error}"
        return ApiError(400, message, param=error.parameter, code="invalid_json_schema")
    if isinstance(error, UnsupportedError):
        return ApiError(400, str(error), param=error.parameter, code="unsupported_value")
    return ApiError(400, str(error), param=param, code="invalid_value")


REFUSED = (PromptTooLongError, SchemaError, UnsupportedError, TemplateError, TextError)


def _start(service: Service, jobs: Sequence[Job], who: Caller, *, streamed: bool | None) -> Answers:
    """Begin the answers, or say in OpenAI's terms why not."""
    reserved = sum(job.reserved for job in jobs)
    who.take("tokens", reserved)
    begun = False
    try:
        # a stream is answered with its head at once, and cannot be given back then
        generations = service.start(jobs, who.line, may_return=not streamed)
        begun = True
    except UnsupportedError as error:
        raise _refusal(error, "n") from error
    except QueueFullError as error:
        raise queue_full(error) from error
    except ClosedError as error:
        raise (unavailable() if service.failed else not_taken()) from error
    finally:
        if not begun:
            who.settle(reserved, 0)
    return Answers(service, generations, who, reserved)


async def _chat_job(
    service: Service, body: ChatRequest, request: Request, who: Caller
) -> Job | None:
    """What is to be answered; None if the client has left meanwhile."""
    messages = [message.plain() for message in body.messages]
    tools, schema = body.called_tools, body.json_schema

    def make() -> Job:
        return service.chat(messages, body.options(), tools=tools, schema=schema)

    try:
        # a schema is looked through, which may take milliseconds
        has_grammar = schema is not None or (tools is not None and tools.force)
        job = await asyncio.to_thread(make) if has_grammar else make()
        return await _compiled(service, job, request, who) if has_grammar else job
    except REFUSED as error:
        raise _refusal(error, "messages") from error
    except TrialsBusyError as error:
        raise ApiError(
            429,
            "Too many schemas are being compiled, or this key's have taken too long; try again "
            "later, or ask for a simpler schema.",
            kind="rate_limit_error",
            code="schema_queue_full",
            headers={"retry-after": "10"},
        ) from error
    except TrialsEndedError as error:
        raise ApiError(
            503,
            "The schema could not be compiled; try again.",
            kind="server_error",
            headers={"retry-after": "1"},
        ) from error


async def _compiled(service: Service, job: Job, request: Request, who: Caller) -> Job | None:
    """The job with its grammar, unless the client leaves before it is compiled."""
    compiling = asyncio.ensure_future(service.constrained(job, who.line))
    leaving = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait((compiling, leaving), return_when=asyncio.FIRST_COMPLETED)
        return compiling.result() if compiling.done() else None
    finally:
        compiling.cancel()
        leaving.cancel()


def _completion_jobs(service: Service, body: CompletionRequest) -> list[Job]:
    options = body.options()
    try:
        return [service.completion(service.tokens(prompt), options) for prompt in body.prompts()]
    except REFUSED as error:
        raise _refusal(error, "prompt") from error


def _echo(service: Service, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else service.tokenizer.decode(prompt)


def _add_answers(app: FastAPI, service: Service) -> Endpoints:
    @app.post("/v1/chat/completions", responses=REPLIES, tags=["chat"])
    async def chat_completions(body: ChatRequest, request: Request, who: Who) -> Response:
        """Answer a conversation."""
        check_model(service, body.model)
        job = await _chat_job(service, body, request, who)
        if job is None:
            return left()
        answers = _start(service, [job], who, streamed=body.stream)
        shape = ChatShape(service, logprobs=bool(body.logprobs))
        if body.stream:
            return stream(answers, shape, include_usage=body.include_usage)
        return await whole(answers, shape, request)

    @app.post("/v1/completions", responses=REPLIES, tags=["completions"])
    async def completions(body: CompletionRequest, request: Request, who: Who) -> Response:
        """Go on with a text."""
        check_model(service, body.model)
        jobs = _completion_jobs(service, body)
        answers = _start(service, jobs, who, streamed=body.stream)
        echoes = [
            _echo(service, prompt) if body.echo else ""
            for prompt in body.prompts()
            for _choice in range(body.n or 1)
        ]
        shape = TextShape(service, logprobs=body.logprobs is not None, echoes=echoes)
        if body.stream:
            return stream(answers, shape, include_usage=body.include_usage)
        return await whole(answers, shape, request)

    return {
        "/v1/chat/completions": Endpoint(ChatRequest, chat_completions),
        "/v1/completions": Endpoint(CompletionRequest, completions),
    }


def create_app(
    service: Service, keys: KeyRing | None = None, embedder: Embedder | None = None
) -> ASGIApp:
    """The application around an engine of our own."""
    return assemble(service, lambda app: _add_answers(app, service), keys, embedder)
