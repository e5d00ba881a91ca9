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
from deepseek_serving.api.replies import Answers, ChatShape, TextShape, stream, unavailable, whole
from deepseek_serving.api.schema import ChatRequest, CompletionRequest
from deepseek_serving.constrained import SchemaError
from deepseek_serving.embedding import Embedder
from deepseek_serving.policy.keys import KeyRing
from deepseek_serving.scheduler import ClosedError, QueueFullError
from deepseek_serving.service import Job, PromptTooLongError, Service, UnsupportedError
from deepseek_serving.template import TemplateError
from deepseek_serving.text import TextError


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
        raise queue_full(error) from error
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


def _add_answers(app: FastAPI, service: Service) -> Endpoints:
    @app.post("/v1/chat/completions", responses=REPLIES, tags=["chat"])
    async def chat_completions(body: ChatRequest, request: Request, who: Who) -> Response:
        """Answer a conversation."""
        check_model(service, body.model)
        job = await _chat_job(service, body)
        answers = _start(service, [job], who)
        shape = ChatShape(service, logprobs=bool(body.logprobs))
        if body.stream:
            return stream(answers, shape, include_usage=body.include_usage)
        return await whole(answers, shape, request)

    @app.post("/v1/completions", responses=REPLIES, tags=["completions"])
    async def completions(body: CompletionRequest, request: Request, who: Who) -> Response:
        """Go on with a text."""
        check_model(service, body.model)
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

    return {
        "/v1/chat/completions": Endpoint(ChatRequest, chat_completions),
        "/v1/completions": Endpoint(CompletionRequest, completions),
    }


def create_app(
    service: Service, keys: KeyRing | None = None, embedder: Embedder | None = None
) -> ASGIApp:
    """The application around an engine of our own."""
    return assemble(service, lambda app: _add_answers(app, service), keys, embedder)
