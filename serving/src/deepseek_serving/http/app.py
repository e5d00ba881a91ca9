"""Answers of an engine of our own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.types import ASGIApp

from deepseek_serving.backends.encoders import Encoders
from deepseek_serving.backends.errors import UnsupportedError
from deepseek_serving.backends.local import Service
from deepseek_serving.backends.requests import GenerationRequest
from deepseek_serving.generation.request import Chat, Completion, Text
from deepseek_serving.generation.scheduler import ClosedError, QueueFullError
from deepseek_serving.http.admission import Endpoint, Endpoints
from deepseek_serving.http.answers import Answers
from deepseek_serving.http.auth import Caller
from deepseek_serving.http.chat_shape import ChatShape
from deepseek_serving.http.common import CallerDep, assemble, check_model, queue_full
from deepseek_serving.http.failures import not_taken, unavailable
from deepseek_serving.http.hang_up import disconnected, left
from deepseek_serving.http.offload import SMALL, OffLoop
from deepseek_serving.http.openapi import REPLIES
from deepseek_serving.http.refusals import refusal, refused_as
from deepseek_serving.http.responses import (
    SMALL_BODY,
    in_terms_of_responses,
    streamed_response,
    whole_response,
)
from deepseek_serving.http.responses_output import Output
from deepseek_serving.http.responses_shape import ResponseShape
from deepseek_serving.http.schema.chat import ChatRequest
from deepseek_serving.http.schema.completions import CompletionRequest
from deepseek_serving.http.schema.responses import ResponsesRequest
from deepseek_serving.http.streaming import stream, whole
from deepseek_serving.http.text_shape import Echo, TextShape
from deepseek_serving.http.tokens import add_tokens
from deepseek_serving.http.validation import (
    ReadChat,
    ReadCompletion,
    ReadResponse,
    ResponseAsked,
)
from deepseek_serving.policy.catalogue import Catalogue
from deepseek_serving.policy.keys import KeyRing
from deepseek_serving.text.prompt_options import content_of

# a message takes a template as long as so many characters take a tokenizer
MESSAGE_WORK = 32


def _start(
    service: Service, jobs: Sequence[GenerationRequest], who: Caller, body: Chat | Completion
) -> Answers:
    """Begin the answers, or say in OpenAI's terms why not."""
    reserved = sum(job.reserved for job in jobs)
    who.take("tokens", reserved)
    begun = False
    try:
        # a stream is answered with its head at once, and cannot be given back then
        generations = service.start(jobs, who.line, may_return=not body.stream)
        begun = True
    except UnsupportedError as error:
        raise refusal(error, "n") from error
    except QueueFullError as error:
        raise queue_full(error) from error
    except ClosedError as error:
        raise (unavailable() if service.failed else not_taken()) from error
    finally:
        if not begun:
            who.settle(reserved, 0)
    return Answers(service, generations, who, reserved, body.model)


def _work(messages: Sequence[Mapping[str, Any]]) -> int:
    """How much there is to read, about in characters."""
    return sum(
        MESSAGE_WORK
        + sum(map(len, content_of(message)))
        + len(message.get("reasoning_content", ""))
        + sum(len(call["function"]["arguments"]) for call in message.get("tool_calls", ()))
        for message in messages
    )


async def _chat_job(
    service: Service, off_loop: OffLoop, body: Chat, request: Request, who: Caller
) -> GenerationRequest | None:
    """What is to be answered; None if the client has left meanwhile."""
    tools, asked = body.called_tools, body.answer_format

    def make() -> GenerationRequest:
        return service.requests.chat(
            body.messages, body.options(), tools=tools, asked=asked, prompt=body.prompt
        )

    with refused_as("messages"):
        # a schema is looked through, which may take milliseconds
        others = asked or tools or body.prompt.variables or body.prompt.documents
        if others or _work(body.messages) > SMALL:
            job = await off_loop.run(make, who.line)
        else:
            job = make()
        jobs = await _compiled(service, [job], request, who)
        return jobs[0] if jobs else None


async def _compiled(
    service: Service, jobs: list[GenerationRequest], request: Request, who: Caller
) -> list[GenerationRequest]:
    """The jobs with the grammar that all want; none if the client leaves before it is compiled."""
    if not jobs[0].wanted.grammar:
        return jobs
    compiling = asyncio.ensure_future(service.requests.with_grammar(jobs, who.line))
    leaving = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait((compiling, leaving), return_when=asyncio.FIRST_COMPLETED)
        return compiling.result() if compiling.done() else []
    finally:
        compiling.cancel()
        leaving.cancel()
        # an error of theirs would keep this frame, and this frame them
        del compiling, leaving


async def _completion_jobs(
    service: Service, off_loop: OffLoop, body: Completion, request: Request, who: Caller
) -> list[GenerationRequest]:
    """What is to be answered; nothing if the client has left meanwhile."""

    def make() -> list[GenerationRequest]:
        return service.requests.completions(body.prompts, body.options(), body.answer_format)

    with refused_as("prompt"):
        if body.answer_format or sum(map(len, body.prompts)) > SMALL:
            jobs = await off_loop.run(make, who.line)
        else:
            jobs = make()
        return await _compiled(service, jobs, request, who)


async def _echoes(
    service: Service,
    off_loop: OffLoop,
    body: Completion,
    jobs: Sequence[GenerationRequest],
    line: str,
) -> list[Echo | None]:
    """What comes before each answer."""
    if not body.echo:
        return list(itertools.repeat(None, len(body.prompts) * body.options().n))

    def decode(prompt: Text) -> str:
        return prompt if isinstance(prompt, str) else service.tokenizer.decode(prompt)

    def make() -> list[Echo | None]:
        echoes = [
            Echo(decode(prompt), job.prompt if body.logprobs is not None else ())
            for prompt, job in zip(body.prompts, jobs, strict=True)
        ]
        return [echo for echo in echoes for _choice in range(body.options().n)]

    if sum(map(len, body.prompts)) <= SMALL:
        return make()
    try:
        return await off_loop.run(make, line)
    except QueueFullError as error:
        raise queue_full(error) from error


async def _chat(
    service: Service, off_loop: OffLoop, body: Chat, request: Request, who: Caller
) -> Response:
    check_model(service, body.model, who)
    job = await _chat_job(service, off_loop, body, request, who)
    if job is None:
        return left()
    answers = _start(service, [job], who, body)
    shape = ChatShape(service, logprobs=body.logprobs, prompt_logprobs=body.prompt_logprobs)
    if body.stream:
        return stream(answers, shape, body.usage)
    return await whole(answers, shape, request)


async def _respond(
    service: Service,
    off_loop: OffLoop,
    body: ResponseAsked[Chat],
    request: Request,
    who: Caller,
) -> Response:
    chat = body.chat
    check_model(service, chat.model, who)
    with in_terms_of_responses():
        job = await _chat_job(service, off_loop, chat, request, who)
        if job is None:
            return left()
        answers = _start(service, [job], who, chat)
    told = ChatShape(service, logprobs=chat.logprobs)
    output = Output(encodes_thoughts=body.encodes_thoughts)
    shape = ResponseShape(answers.model, body.echo, output)
    if chat.stream:
        return streamed_response(answers, told, shape)
    return await whole_response(answers, told, shape, request)


async def _complete(
    service: Service, off_loop: OffLoop, body: Completion, request: Request, who: Caller
) -> Response:
    check_model(service, body.model, who)
    jobs = await _completion_jobs(service, off_loop, body, request, who)
    if not jobs:
        return left()
    echoes = await _echoes(service, off_loop, body, jobs, who.line)
    answers = _start(service, jobs, who, body)
    shape = TextShape(
        service, logprobs=body.logprobs, echoes=echoes, prompt_logprobs=body.prompt_logprobs
    )
    if body.stream:
        return stream(answers, shape, body.usage)
    return await whole(answers, shape, request)


def _add_answers(app: FastAPI, service: Service, off_loop: OffLoop) -> Endpoints:
    async def chat(body: Chat, request: Request, who: Caller) -> Response:
        return await _chat(service, off_loop, body, request, who)

    async def complete(body: Completion, request: Request, who: Caller) -> Response:
        return await _complete(service, off_loop, body, request, who)

    @app.post("/v1/chat/completions", responses=REPLIES, tags=["chat"])
    async def chat_completions(body: ChatRequest, request: Request, who: CallerDep) -> Response:
        """Answer a conversation."""
        return await chat(body.asked(), request, who)

    @app.post("/v1/completions", responses=REPLIES, tags=["completions"])
    async def completions(body: CompletionRequest, request: Request, who: CallerDep) -> Response:
        """Go on with a text."""
        return await complete(body.asked(), request, who)

    reading = ReadResponse(ReadChat())

    async def respond(body: ResponseAsked[Chat], request: Request, who: Caller) -> Response:
        return await _respond(service, off_loop, body, request, who)

    @app.post("/v1/responses", responses=REPLIES, tags=["responses"])
    async def responses(_body: ResponsesRequest, request: Request, who: CallerDep) -> Response:
        """Answer a conversation, as a response."""
        return await respond(reading.read(await request.body()), request, who)

    return {
        **add_tokens(app, service, off_loop),
        "/v1/chat/completions": Endpoint(ReadChat(), chat),
        "/v1/responses": Endpoint(reading, respond, SMALL_BODY),
        "/v1/completions": Endpoint(ReadCompletion(), complete),
    }


def create_app(
    service: Service,
    keys: KeyRing | None = None,
    encoders: Encoders | None = None,
    catalogue: Catalogue | None = None,
) -> ASGIApp:
    """The application around an engine of our own."""

    def add(app: FastAPI, off_loop: OffLoop) -> Endpoints:
        return _add_answers(app, service, off_loop)

    return assemble(service, add, keys, encoders, catalogue)
