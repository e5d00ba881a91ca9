"""One request that another server answers: what it takes there, what it costs, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import httpx2
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deepseek_serving.backends.upstream import Upstream, error_text
from deepseek_serving.generation.scheduler import QueueFullError
from deepseek_serving.http.auth import Caller
from deepseek_serving.http.common import check_model, queue_full
from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.failures import not_taken, unavailable
from deepseek_serving.http.hang_up import disconnected
from deepseek_serving.http.headers import REQUEST_ID
from deepseek_serving.http.json_spans import top_members
from deepseek_serving.http.middleware import STATE
from deepseek_serving.http.upstream_refusals import Told, failed, refusal, told_in_stream
from deepseek_serving.http.upstream_words import name_thoughts
from deepseek_serving.http.validation import UpstreamRequest
from deepseek_serving.metrics import client_label

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

JSON = {"content-type": "application/json"}
FINISHES = frozenset({"stop", "length", "tool_calls", "content_filter"})
# bytes of what is read of an answer that is passed on as it came
MOST_USAGE, MOST_ERROR = 4096, 2**16


class _BrokenError(Exception):
    """The answer ended before its end."""


class ProxiedRequest:
    """One request and its answer: what it is counted for, and what it has cost so far."""

    def __init__(
        self, upstream: Upstream, asked: UpstreamRequest, who: Caller, request_id: str
    ) -> None:
        self._upstream = upstream
        self._request_id = request_id
        self._asked = asked
        self._who = who
        self._began = time.monotonic()
        self._placed: float | None = None
        self._first: float | None = None
        self._events = 0
        self._usage: Mapping[str, Any] | None = None
        self._finish = "cancelled"
        self._closed = False
        self._stack = contextlib.AsyncExitStack()
        self._source: AsyncIterator[httpx2.ServerSentEvent]
        # the first event, until it is passed on
        self._ahead: httpx2.ServerSentEvent | None = None
        timeout = upstream.settings.request_timeout
        self._until = None if timeout is None else self._began + timeout

    async def begin(self) -> httpx2.Response:
        """The head of the upstream's answer. Raises ApiError, and is closed then."""
        self._who.take("tokens", self._asked.reserved)
        try:
            return await self._in_time(self._begin())
        except BaseException as error:
            if isinstance(error, ApiError):
                self._finish = "error"
            await self.close()
            raise

    async def _begin(self) -> httpx2.Response:
        upstream = self._upstream
        if not upstream.healthy:
            raise not_taken() if upstream.draining else unavailable()
        try:
            await self._stack.enter_async_context(upstream.gate.place(self._who.line))
        except QueueFullError as error:
            raise queue_full(error) from error
        self._placed = time.monotonic()
        upstream.outcomes.begin(self)
        try:
            body = _salted(self._asked.body, upstream.salt(self._who.line))
            headers = {**JSON, REQUEST_ID: self._request_id}
            request = upstream.client.build_request(
                "POST", self._asked.path, content=body, headers=headers
            )
            response = await upstream.client.send(request, stream=True)
            self._stack.push_async_callback(response.aclose)
            if response.status_code != 200:
                raise self._refused(await Told.of(response))
            if self._asked.stream:
                await self._begin_stream(response)
        except httpx2.ConnectError as error:
            upstream.lost()
            raise failed(503, "The engine does not answer; try again later.") from error
        except httpx2.ReadTimeout as error:
            upstream.silent()
            upstream.outcomes.failed()
            raise failed(504, "The engine did not begin to answer in time.") from error
        except (httpx2.HTTPError, httpx2.SSEError) as error:
            upstream.outcomes.failed()
            logger.error("the upstream broke off before it answered: %r", error)
            raise failed(502, "The engine broke off before it answered.") from error
        return response

    def _refused(self, told: Told) -> ApiError:
        """What a client hears of it; a failure of the upstream is counted."""
        longest, asked = self._upstream.max_len, self._asked
        refused = refusal(told, longest, asked.path, form=asked.form)
        if refused.status >= 500:
            self._upstream.outcomes.failed()
        return refused

    async def whole(self, response: httpx2.Response) -> dict[str, Any]:
        """The answer in one piece, in our release's name."""
        try:
            body = json.loads(await self._in_time(response.aread()))
            if not isinstance(body, dict):
                raise _BrokenError
        except (httpx2.HTTPError, ValueError, _BrokenError) as error:
            raise self.broken(error) from error
        self._note(body)
        if self._finish in FINISHES:
            self._upstream.outcomes.answered()
        return self._named(body)

    async def passed(self, response: httpx2.Response) -> bytes:
        """The answer of an encoder, in our release's name and otherwise as it came.

        It may have millions of numbers, which nobody here reads.
        """
        try:
            data = await self._in_time(response.aread())
            members = await self._in_time(top_members(data))
            if not members.keys() & {"data", "results"}:
                raise _BrokenError(error_text(data[:MOST_ERROR]))
            usage = json.loads(members.get("usage", b"{}")[:MOST_USAGE])
        except (httpx2.HTTPError, ValueError, _BrokenError) as error:
            raise self.broken(error) from error
        self._usage = usage if isinstance(usage, dict) else {}
        self._finish = "stop"
        self._upstream.outcomes.answered()
        members["model"] = json.dumps(self._asked.model).encode("ascii")
        return b"{%b}" % b",".join(
            b"%b:%b" % (json.dumps(name).encode("ascii"), value) for name, value in members.items()
        )

    async def events(self) -> AsyncIterator[str]:
        """The answer as server-sent events, each as soon as it is there."""
        try:
            async for shown in self.parts():
                yield f"data: {json.dumps(shown, separators=(',', ':'))}\n\n"
            yield "data: [DONE]\n\n"
        except ApiError as error:
            yield f"data: {json.dumps(error.body())}\n\n"

    async def parts(self) -> AsyncIterator[dict[str, Any]]:
        """The parts of a streamed answer, each as soon as it is there. Raises ApiError."""
        try:
            while (event := await self._next()) is not None:
                shown = self._shown(event.data)
                if shown is not None:
                    yield shown
        except ApiError:
            self._finish = "timeout"
            raise
        except (httpx2.HTTPError, httpx2.SSEError, ValueError, _BrokenError) as error:
            raise self.broken(error) from error

    def broken(self, error: Exception) -> ApiError:
        """Note that the answer ended before its end, or cannot be read; what the client hears."""
        logger.error("the upstream broke off in an answer: %r", error)
        self._finish = "error"
        self._upstream.outcomes.failed()
        if isinstance(error, httpx2.ReadTimeout):
            self._upstream.silent()
        return failed(502, "The engine broke off before its answer was complete.")

    async def _begin_stream(self, response: httpx2.Response) -> None:
        """Read the first event: a refusal that comes as one is a refusal with its own status."""
        self._source = aiter(httpx2.EventSource(response))
        self._ahead = await anext(self._source, None)
        error = _error_in(self._ahead.data) if self._ahead is not None else None
        if self._ahead is not None and error is not None:
            raise self._refused(told_in_stream(self._ahead.data, error))

    async def _next(self) -> httpx2.ServerSentEvent | None:
        """None at the end; not every server sends the word for it."""
        event, self._ahead = self._ahead, None
        if event is None:
            event = await self._in_time(anext(self._source, None))
        if event is not None and event.data != "[DONE]":
            return event
        if self._finish not in FINISHES:
            raise _BrokenError("no choice has come to its end")
        self._upstream.outcomes.answered()
        return None

    def _shown(self, data: str) -> dict[str, Any] | None:
        """An event as the client gets it, if it gets it; _BrokenError if it tells of an error."""
        body = json.loads(data)
        if not isinstance(body, dict) or "error" in body:
            raise _BrokenError(error_text(data.encode()))
        self._note(body)
        if self._asked.usage == "none":
            body.pop("usage", None)
            if not body.get("choices"):
                return None
        return self._named(body)

    def _named(self, body: dict[str, Any]) -> dict[str, Any]:
        release = self._upstream.release
        return {**body, "model": self._asked.model, "system_fingerprint": release.digest[:12]}

    def _note(self, body: Mapping[str, Any]) -> None:
        if isinstance(body.get("usage"), Mapping):
            self._usage = body["usage"]
        choices = body.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, Mapping):
                continue
            name_thoughts(choice)
            finish = choice.get("finish_reason")
            if finish is not None:
                self._finish = finish if finish in FINISHES else "stop"
        if choices:
            self._upstream.outcomes.came()
            self._events += 1
            if self._first is None:
                self._first = time.monotonic()

    async def _in_time(self, doing: Awaitable[Result]) -> Result:
        """Raises ApiError when the request has taken as long as it may."""
        left = None if self._until is None else max(0.0, self._until - time.monotonic())
        try:
            return await asyncio.wait_for(doing, left)
        except asyncio.TimeoutError as error:
            raise ApiError(
                504,
                "The answer was not complete in the time that a request may take.",
                kind="server_error",
                code="request_timeout",
            ) from error

    async def close(self) -> None:
        """Let go of the upstream, which stops generating, and settle the account; once."""
        if not self._closed:
            self._closed = True
            self._upstream.outcomes.end(self)
            self._settle()
            await self._stack.aclose()

    def _settle(self) -> None:
        prompt, completion = _tokens(self._usage, self._asked, self._events)
        if self._placed is None or (self._finish == "error" and not self._events):
            prompt = completion = 0
        self._who.settle(self._asked.reserved, prompt + completion)
        metrics, key, now = self._upstream.metrics, client_label(self._who.line), time.monotonic()
        metrics.finished.labels(self._finish, key).inc()
        if self._placed is None:
            return
        metrics.prompt_tokens.labels(key).inc(prompt)
        metrics.generation_tokens.labels(key).inc(completion)
        metrics.queue.observe(self._placed - self._began)
        if self._asked.stream and self._first is not None:
            metrics.ttft.observe(self._first - self._began)
            if completion > 1:
                metrics.tpot.observe((now - self._first) / (completion - 1))
        if self._finish in FINISHES:
            metrics.e2e.observe(now - self._began)
            metrics.prompt_length.observe(prompt)
            metrics.generation_length.observe(completion)


def _error_in(data: str) -> object:
    """The error that an event tells of, if it tells of one; what is no JSON is read later."""
    try:
        body = json.loads(data)
    except ValueError:
        return None
    return body.get("error") if isinstance(body, dict) else None


def _salted(body: bytes, salt: str | None) -> bytes:
    """The object with one member more: no client's own, which is never passed on."""
    return body if salt is None else b'{"cache_salt":"%b",' % salt.encode("ascii") + body[1:]


def _tokens(
    usage: Mapping[str, Any] | None, asked: UpstreamRequest, events: int
) -> tuple[int, int]:
    """Tokens of prompt and answer: as the upstream counted them, or what can be told without it.

    Of an answer in one piece that nobody waited for, nothing is seen; it costs what it may have.
    """
    counted = {} if usage is None else usage
    # servers of encoders may count in all alone
    read = counted.get("prompt_tokens", counted.get("total_tokens"))
    counts = read, counted.get("completion_tokens")
    prompt, completion = (count if isinstance(count, int) else None for count in counts)
    seen = events if asked.stream else asked.most
    return asked.prompt if prompt is None else prompt, seen if completion is None else completion


class Events(StreamingResponse):
    """Lets go of the upstream when the client hangs up, even before the first event."""

    def __init__(self, proxied: ProxiedRequest, events: AsyncIterator[str]) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"cache-control": "no-cache"},
        )
        self._proxied = proxied

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._proxied.close()


# makes a response of the upstream's answer
Answer = Callable[[ProxiedRequest, UpstreamRequest], Coroutine[Any, Any, Response]]


async def forward(
    upstream: Upstream,
    asked: UpstreamRequest,
    request: Request,
    who: Caller,
    answer: Answer,
) -> Response:
    """What `answer` makes of the upstream's answer, unless the client leaves before."""
    check_model(upstream, asked.model, who)
    proxied = ProxiedRequest(upstream, asked, who, request.scope["state"][STATE])
    answering = asyncio.ensure_future(answer(proxied, asked))
    gone = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
    finally:
        gone.cancel()
        if not answering.done():
            answering.cancel()
            # it gives back its connection to the upstream and its place in the queue
            await asyncio.wait({answering})
    # nobody reads it; 499 is what the logs of proxies call this
    return Response(status_code=499)
