"""The model as the API sees it: a prompt in, pieces of answers out as they are generated."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deepseek_serving.check.bounded import check
from deepseek_serving.errors import ServingError, TokenizerError
from deepseek_serving.generation.constrained import Grammar, Grammars
from deepseek_serving.generation.grammar_cost import SchemaError
from deepseek_serving.generation.reply import (
    END_THINK,
    THINK,
    Piece,
    ReplyParser,
    ToolFormat,
    tool_format,
)
from deepseek_serving.generation.request import Options, Tools
from deepseek_serving.generation.sampling import Choice, Sampling
from deepseek_serving.generation.scheduler import Event, Limits, Request, Scheduler, Ticket
from deepseek_serving.metrics import EngineState, Metrics, client_label
from deepseek_serving.runtime import Engine
from deepseek_serving.runtime.engine import open_engine
from deepseek_serving.runtime.question import Question
from deepseek_serving.settings import EngineSettings, ModelSettings
from deepseek_serving.text.slices import TooManyTokensError
from deepseek_serving.text.template import TemplateError
from deepseek_serving.text.tokenizer import ChatTokenizer, Defaults, TextError, read_defaults
from deepseek_serving.trust.release import Release

logger = logging.getLogger(__name__)


class PromptTooLongError(ValueError):
    """The prompt leaves no room for an answer."""

    def __init__(self, tokens: int, max_len: int, *, whole: bool = True) -> None:
        """`whole`: the prompt was read to its end."""
        at_least = "" if whole else "at least "
        super().__init__(
            f"This model's context length is {max_len} tokens; the prompt is {at_least}{tokens} "
            "tokens and leaves no room for an answer. Shorten it."
        )


class UnsupportedError(ValueError):
    """This release cannot do what the parameter asks for."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class GenerationFailedError(Exception):
    """The engine failed, or the service stopped, before the answer was complete."""


class GenerationRefusedError(GenerationFailedError):
    """No token may follow: what the answer must look like is more than can be enforced."""


class GenerationFaultError(GenerationFailedError):
    """The engine could not answer this request; it goes on with others."""


class GenerationReturnedError(GenerationFailedError):
    """The service stops, and had not begun with the answer: another one can give it."""


class GenerationTimeoutError(GenerationFailedError):
    """The answer was not complete in the time that a request may take."""


FAILURES: Mapping[str, type[GenerationFailedError]] = {
    "timeout": GenerationTimeoutError,
    "refused": GenerationRefusedError,
    "failed": GenerationFaultError,
    "returned": GenerationReturnedError,
}


@dataclass(frozen=True)
class Job:
    """One prompt, and how it is to be answered; `thinking` is None for models that do not think."""

    prompt: Sequence[int]
    options: Options
    thinking: bool | None = None
    tools: ToolFormat | None = None
    # what the answer must look like, from its beginning or after that token, as text and compiled
    wanted: str | None = None
    after: int | None = None
    grammar: Grammar | None = None

    @property
    def reserved(self) -> int:
        """Tokens that it may cost, as far as the request says."""
        return len(self.prompt) + self.options.n * (self.options.max_tokens or 0)


@dataclass(frozen=True)
class Chunk:
    """Some of an answer, with the tokens that it took where log probabilities are asked for."""

    piece: Piece
    tokens: tuple[Choice, ...] = ()


class Outbox:
    """Brings events from the scheduler's thread into a loop: one wake-up for all that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._events: deque[tuple[Generation, Event]] = deque()
        self._woken = False

    def put(self, generation: Generation, event: Event) -> None:
        """Called from the scheduler's thread."""
        # looked at after the event is in, and cleared before events are taken out, so that none
        # is left behind
        self._events.append((generation, event))
        if not self._woken:
            self._woken = True
            # the loop is closed only when the process ends; nobody waits for the event then
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        # no more than there are now: others have work in the loop too
        for _event in range(len(self._events)):
            generation, event = self._events.popleft()
            generation.deliver(event)


class Generation:
    """One answer in the making: iterate over `chunks()` once, read the rest, and `close()`."""

    def __init__(self, service: Service, job: Job, number: int) -> None:
        """`number`: which of the request's jobs it is."""
        self._service = service
        self.job_number = number
        self._outbox = service.outbox()
        self._events: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None
        self._text = service.tokenizer.stream()
        # with log probabilities, and not in a chunk yet
        self._tokens: tuple[Choice, ...] = ()
        self._parser = ReplyParser(job.options.stop, thinking=job.thinking, tools=job.tools)
        self._began = time.monotonic()
        self._first: float | None = None
        self._closed = False
        self.ticket: Ticket | None = None
        self.prompt_tokens = len(job.prompt)
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self.finish_reason: str = ""
        # how it ends if it does not finish
        self._failure = "cancelled"

    @property
    def cached_tokens(self) -> int:
        return self.ticket.reused if self.ticket else 0

    def receive(self, event: Event) -> None:
        """Called from the scheduler's thread."""
        self._outbox.put(self, event)

    def deliver(self, event: Event) -> None:
        """The same, in the loop's thread."""
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _next(self) -> list[Event]:
        """All events that have come, at least one."""
        if not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        events, self._events = self._events, []
        return events

    async def chunks(self) -> AsyncIterator[list[Chunk]]:
        """Pieces of the answer, none of them empty: each time all that there are by then."""
        try:
            while not self.finish_reason:
                found: list[Chunk] = []
                try:
                    for event in await self._next():
                        chunk = self._read(event)
                        if chunk is not None:
                            found.append(chunk)
                        if self.finish_reason:
                            break
                except GenerationFailedError:
                    if found:
                        yield found
                    raise
                if found:
                    yield found
        finally:
            self.close()

    def _read(self, event: Event) -> Chunk | None:
        piece = Piece()
        choice = event.choice
        if choice is not None:
            self._count()
            if not event.is_end:
                piece = self._parser.push(self._pushed(choice.token))
                self._tokens += (choice,) if choice.logprob is not None else ()
        if event.finish is not None or self._parser.stopped:
            piece += self._end(event)
        if not piece and not (self.finish_reason and self._tokens):
            return None
        tokens, self._tokens = self._tokens, ()
        return Chunk(piece, tokens)

    def _pushed(self, token: int) -> str:
        try:
            return self._text.push(token)
        except Exception as error:
            logger.exception("a token cannot be made into text; its request ends")
            self._failure = "failed"
            raise GenerationFaultError("failed") from error

    def _end(self, event: Event) -> Piece:
        """Note how the answer ends; what was held back until then."""
        if self._parser.stopped:
            finish, piece = "stop", self._parser.finish()
        elif event.finish in ("stop", "length"):
            finish, piece = event.finish, self._parser.finish()
        else:
            self._failure = event.finish or "error"
            raise FAILURES.get(self._failure, GenerationFailedError)(event.finish)
        self.finish_reason = finish
        return piece

    def close(self) -> None:
        """Free the slot, if the answer is not complete, and count what was done; once."""
        if not self._closed:
            self._closed = True
            if self.ticket is not None:
                self._service.scheduler.cancel(self.ticket)
                # once the loop is free: the last of the answer need not wait for its count
                self._outbox.loop.call_soon(self._record, self.ticket, time.monotonic())

    def _count(self) -> None:
        self.completion_tokens += 1
        self.reasoning_tokens += self._parser.thinking
        if self._first is None:
            self._first = time.monotonic()

    def _record(self, ticket: Ticket, now: float) -> None:
        metrics = self._service.metrics
        key = client_label(ticket.request.key)
        metrics.finished.labels(self.finish_reason or self._failure, key).inc()
        metrics.generation_tokens.labels(key).inc(self.completion_tokens)
        if ticket.started is not None:
            metrics.prompt_tokens.labels(key).inc(self.prompt_tokens)
            metrics.queue.observe(ticket.started - ticket.submitted)
        if self._first is not None:
            metrics.ttft.observe(self._first - self._began)
            if self.completion_tokens > 1:
                metrics.tpot.observe((now - self._first) / (self.completion_tokens - 1))
        if self.finish_reason:
            metrics.e2e.observe(now - self._began)
            metrics.prompt_length.observe(self.prompt_tokens)
            metrics.generation_length.observe(self.completion_tokens)


class Service:
    """A verified release, loaded and ready to generate."""

    def __init__(
        self,
        release: Release,
        scheduler: Scheduler,
        tokenizer: ChatTokenizer,
        *,
        timeout: float | None = None,
        has_logits: bool = True,
    ) -> None:
        self.release = release
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.timeout = timeout
        self._has_logits = has_logits
        self.defaults: Defaults = read_defaults(release.graph)
        self.vocabulary = vocabulary(release)
        # the table of a model may be larger than its tokenizer's vocabulary, or smaller
        tokens = max(self.vocabulary, tokenizer.size)
        self.grammars = Grammars(release.graph, tokens, self.defaults.end_tokens)
        self.tool_format = tool_format(tokenizer.template_source) if tokenizer.takes_tools else None
        # one token where the model was trained to think
        self._end_think = tokenizer.token(END_THINK)
        self._thinks = self._end_think is not None or any(
            mark in tokenizer.template_source for mark in (THINK, END_THINK)
        )
        self.metrics = Metrics(EngineState(scheduler, release))
        self._outbox: Outbox | None = None
        self.created = int((release.graph / "export.json").stat().st_mtime)

    @property
    def max_len(self) -> int:
        return self.scheduler.max_len

    @property
    def healthy(self) -> bool:
        return self.scheduler.healthy

    @property
    def failed(self) -> bool:
        return self.scheduler.failed

    @property
    def stuck(self) -> bool:
        return self.scheduler.stuck

    def outbox(self) -> Outbox:
        """Of the loop that runs."""
        loop = asyncio.get_running_loop()
        if self._outbox is None or self._outbox.loop is not loop:
            self._outbox = Outbox(loop)
        return self._outbox

    def drain(self) -> None:
        """Take no more requests; those that are here go on."""
        self.scheduler.drain()

    async def begin(self) -> None:
        """Generate something, so that readiness means that the whole path works."""
        self.grammars.start()
        await warm_up(self)

    async def close(self) -> None:
        await asyncio.to_thread(self.scheduler.stop)
        await asyncio.to_thread(self.grammars.close)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: Options,
        *,
        tools: Tools | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Job:
        """Raises TemplateError, PromptTooLongError, UnsupportedError or SchemaError."""
        if tools is not None and self.tool_format is None:
            raise UnsupportedError(
                "tools",
                f"The chat template of {self.release.model!r} has no tools; ask without them, or "
                "publish the model with a template that has them.",
            )
        text = self.tokenizer.text(
            self._as_rendered(messages), tools.rendered() if tools is not None else None
        )
        thinking = text.rstrip().endswith(THINK) if self._thinks else None
        return self._job(
            Job(
                self._encode(text, whole=False),
                options,
                thinking=thinking,
                tools=self.tool_format if tools is not None else None,
                wanted=self._wanted(tools, schema),
                after=self._after(tools, schema) if thinking else None,
            )
        )

    async def constrained(self, job: Job, key: str = "") -> Job:
        """The job with its grammar compiled, if it has one. Cancelling it ends the compiler.

        Raises SchemaError, TrialsBusyError or TrialsEndedError.
        """
        if job.wanted is None:
            return job
        try:
            return replace(job, grammar=await self.grammars.compile(job.wanted, job.after, key))
        except SchemaError as error:
            if job.tools is not None:
                error.parameter = "tools"
            raise

    def tokens(self, prompt: str | Sequence[int]) -> Sequence[int]:
        """A prompt as tokens. Raises TextError or PromptTooLongError."""
        self._check_length(0 if isinstance(prompt, str) else len(prompt))
        tokens = self._encode(prompt, whole=True) if isinstance(prompt, str) else list(prompt)
        if not tokens:
            raise TextError("the prompt is empty; this model needs at least one token to go on")
        return tokens

    def _encode(self, text: str, *, whole: bool) -> list[int]:
        """Raises TextError, or PromptTooLongError before more than fits has been read."""
        try:
            return self.tokenizer.encode(text, whole=whole, most=self.max_len)
        except TooManyTokensError as error:
            raise PromptTooLongError(error.least, self.max_len, whole=False) from error

    def _check_length(self, tokens: int) -> None:
        if tokens >= self.max_len:
            raise PromptTooLongError(tokens, self.max_len)

    def completion(self, prompt: Sequence[int], options: Options) -> Job:
        """Raises PromptTooLongError, TextError or UnsupportedError."""
        return self._job(Job(prompt, options))

    def _check_tokens(self, prompt: Sequence[int]) -> None:
        """Where all prompts pass: a tokenizer may have more tokens than the graph's table."""
        self._check_length(len(prompt))
        highest, lowest = max(prompt, default=0), min(prompt, default=0)
        beyond = highest if highest >= self.vocabulary else lowest
        if not 0 <= beyond < self.vocabulary:
            named = self.tokenizer.named(beyond)
            raise TextError(
                f"the vocabulary has the tokens 0 to {self.vocabulary - 1}; {beyond} is none"
                + (f"; it stands for {named!r}, which the model has not learned" if named else "")
            )

    def _job(self, job: Job) -> Job:
        self._check_tokens(job.prompt)
        options = job.options
        reads = Sampling(
            logprobs=options.logprobs,
            logit_bias=options.logit_bias,
            repetition_penalty=options.repetition_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
        ).reads_logits
        if not self._has_logits and (reads or job.wanted):
            raise UnsupportedError(
                "logit_bias",
                "The graph of this release gives no logits, which penalties, logit_bias, "
                "log probabilities and JSON output need; publish the release again.",
            )
        beyond = [token for token in options.logit_bias if token >= self.vocabulary]
        if beyond:
            raise UnsupportedError(
                "logit_bias",
                f"The vocabulary has the tokens 0 to {self.vocabulary - 1}; {beyond[0]} is none.",
            )
        return job

    def _as_rendered(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Messages as the template wants them: clients send calls' arguments as text."""
        form = self.tool_format
        if form is None or not form.arguments_as_object:
            return list(messages)
        return [_with_objects(message) for message in messages]

    def _after(self, tools: Tools | None, schema: Mapping[str, Any] | None) -> int | None:
        """Thoughts are free: the grammar holds from their end on."""
        if self._end_think is None and (schema is not None or (tools and tools.force)):
            raise UnsupportedError(
                "response_format" if schema is not None else "tool_choice",
                "This model's thoughts do not end in a token of their own, so what follows "
                "them cannot be enforced.",
            )
        return self._end_think

    def _wanted(self, tools: Tools | None, schema: Mapping[str, Any] | None) -> str | None:
        if tools is not None and tools.force:
            return self._forced_call(tools)
        return None if schema is None else self.grammars.json(schema)

    def _forced_call(self, tools: Tools) -> str:
        form = self.tool_format
        if form is None or form.arguments is None:
            raise UnsupportedError(
                "tool_choice", "The calls of this model's chat template cannot be enforced."
            )
        schemas = [form.schema(f) for f in tools.functions if f["name"] in tools.force]
        begin, end = (f"{form.begin}\n", f"\n{form.end}") if form.end else ("", "")
        try:
            return self.grammars.one_of(begin, schemas, end)
        except SchemaError as error:
            error.parameter = "tools"
            raise

    def start(
        self, jobs: Sequence[Job], key: str = "", *, may_return: bool = False
    ) -> list[Generation]:
        """Begin every job's answers, or none.

        `may_return`: a service that stops gives back what it has not begun, with
        GenerationReturnedError.

        Raises UnsupportedError, QueueFullError or ClosedError.
        """
        count = sum(job.options.n for job in jobs)
        if count > self.scheduler.most:
            raise UnsupportedError(
                "n",
                f"{count} answers are asked for; at most {self.scheduler.most} can be in work and "
                "wait together.",
            )
        pairs = [
            (
                replace(self._request(job, choice, key), may_return=may_return),
                Generation(self, job, number),
            )
            for number, job in enumerate(jobs)
            for choice in range(job.options.n)
        ]
        tickets = self.scheduler.submit_all([(r, g.receive) for r, g in pairs])
        for ticket, (_request, generation) in zip(tickets, pairs, strict=True):
            generation.ticket = ticket
        return [generation for _request, generation in pairs]

    def _request(self, job: Job, choice: int, key: str) -> Request:
        options, defaults = job.options, self.defaults
        sampling = Sampling(
            temperature=(
                defaults.temperature if options.temperature is None else options.temperature
            ),
            top_p=defaults.top_p if options.top_p is None else options.top_p,
            seed=options.seed,
            top_k=options.top_k,
            min_p=options.min_p,
            repetition_penalty=options.repetition_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            logit_bias=options.logit_bias,
            logprobs=options.logprobs,
            choice=choice,
        )
        room = self.scheduler.max_len - len(job.prompt)
        return Request(
            job.prompt,
            room if options.max_tokens is None else min(room, options.max_tokens),
            defaults.end_tokens,
            sampling,
            key,
            self.timeout,
            job.grammar.constraint() if job.grammar else None,
        )


def _with_objects(message: Mapping[str, Any]) -> Mapping[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return message
    read = []
    for call in calls:
        function = call["function"]
        try:
            arguments = json.loads(function["arguments"] or "{}")
        except (ValueError, RecursionError) as error:
            raise TemplateError(
                f"the arguments of the call of {function['name']!r} are not JSON: {error}"
            ) from error
        read.append({**call, "function": {**function, "arguments": arguments}})
    return {**message, "tool_calls": read}


async def warm_up(service: Service) -> None:
    """One short generation, so that readiness means that the whole path works."""
    job = service.chat([{"role": "user", "content": "Hello"}], Options(max_tokens=4))
    (generation,) = service.start([job])
    async for _chunks in generation.chunks():
        pass
    if not generation.completion_tokens:
        raise ServingError("the warm-up generation gave no token")


def vocabulary(release: Release) -> int:
    """Tokens in the graph's table."""
    record = json.loads((release.graph / "export.json").read_text(encoding="utf-8"))
    return int(record["vocabulary"])


def gives_logits(engine: Engine) -> bool:
    """Whether the graph has them; those exported by earlier versions have candidates only."""
    engine.prefill(0, [0], 0)
    try:
        engine.logits()
    except ServingError:
        return False
    finally:
        engine.reset()
    return True


def load(release: Release, model: ModelSettings, settings: EngineSettings) -> Service:
    """Load a verified release and start its scheduler."""
    # within bounds first: what does not come back from there must not end this process
    check(release.graph, TokenizerError)
    tokenizer = ChatTokenizer(release.graph)
    engine = open_engine(
        release,
        store=model.store,
        public_key=model.public_key,
        key=settings.key,
        provider=settings.provider,
        threads=settings.threads,
        slots=settings.slots,
        max_len=settings.max_len,
    )
    limits = Limits(
        queue=settings.queue,
        queue_per_key=settings.queue_per_key,
        prefill_chunk=settings.prefill_chunk,
        step_tokens=settings.step_tokens,
        idle_seconds=settings.idle_seconds,
        stuck_seconds=settings.stuck_seconds,
    )
    has_logits = gives_logits(engine)
    scheduler = Scheduler(engine, limits, question=Question.learn(engine, vocabulary(release)))
    service = Service(
        release,
        scheduler,
        tokenizer,
        timeout=settings.request_timeout,
        has_logits=has_logits,
    )
    scheduler.start()
    return service
