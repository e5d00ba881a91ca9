"""The model as the API sees it: a prompt in, pieces of answers out as they are generated."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseek_serving.constrained import Grammar, Grammars
from deepseek_serving.errors import ServingError
from deepseek_serving.metrics import Metrics
from deepseek_serving.release import Release
from deepseek_serving.reply import (
    END_THINK,
    THINK,
    Piece,
    ReplyParser,
    ToolFormat,
    tool_format,
)
from deepseek_serving.runtime import Engine
from deepseek_serving.runtime.engine import open_engine
from deepseek_serving.sampling import Choice, Sampling
from deepseek_serving.scheduler import Event, Limits, Request, Scheduler, Ticket
from deepseek_serving.settings import EngineSettings, ModelSettings
from deepseek_serving.text import ChatTokenizer, Defaults, TemplateError, TextError, read_defaults


class PromptTooLongError(ValueError):
    """The prompt leaves no room for an answer."""

    def __init__(self, tokens: int, max_len: int) -> None:
        super().__init__(
            f"This model's context length is {max_len} tokens; the prompt is {tokens} tokens "
            "and leaves no room for an answer. Shorten it."
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


class GenerationTimeoutError(GenerationFailedError):
    """The answer was not complete in the time that a request may take."""


@dataclass(frozen=True)
class Options:
    """What a request may choose; None takes the checkpoint's or the service's default."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    n: int = 1


@dataclass(frozen=True)
class Tools:
    """Functions that the model may call; `force`: one of these it must call."""

    functions: Sequence[Mapping[str, Any]]
    force: Sequence[str] = ()

    def rendered(self) -> list[Mapping[str, Any]]:
        return [{"type": "function", "function": function} for function in self.functions]


@dataclass(frozen=True)
class Job:
    """One prompt, and how it is to be answered; `thinking` is None for models that do not think."""

    prompt: Sequence[int]
    options: Options
    thinking: bool | None = None
    tools: ToolFormat | None = None
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


class Generation:
    """One answer in the making: iterate over `chunks()` once, read the rest, and `close()`."""

    def __init__(self, service: Service, job: Job, number: int) -> None:
        """`number`: which of the request's jobs it is."""
        self._service = service
        self.job_number = number
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._parser = ReplyParser(job.options.stop, thinking=job.thinking, tools=job.tools)
        self._loop = asyncio.get_running_loop()
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
        # the loop is closed only when the process ends; nobody waits for the event then
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Pieces of the answer, none of them empty."""
        stream = self._service.tokenizer.stream()
        tokens: tuple[Choice, ...] = ()
        try:
            while not self.finish_reason:
                event = await self._events.get()
                piece = Piece()
                if event.choice is not None:
                    self._count()
                    if not event.is_end:
                        piece = self._parser.push(stream.push(event.choice.token))
                        tokens += (event.choice,) if event.choice.logprob is not None else ()
                piece += self._end(event)
                if piece or (self.finish_reason and tokens):
                    yield Chunk(piece, tokens)
                    tokens = ()
        finally:
            self.close()

    def _end(self, event: Event) -> Piece:
        """Note how the answer ends, if it does; what was held back until then."""
        if self._parser.stopped:
            finish, piece = "stop", self._parser.finish()
        elif event.finish in ("stop", "length"):
            finish, piece = event.finish, self._parser.finish()
        elif event.finish is not None:
            self._failure = event.finish
            if event.finish == "timeout":
                raise GenerationTimeoutError(event.finish)
            if event.finish == "refused":
                raise GenerationRefusedError(event.finish)
            raise GenerationFailedError(event.finish)
        else:
            finish, piece = "", Piece()
        self.finish_reason = finish
        return piece

    def close(self) -> None:
        """Free the slot, if the answer is not complete, and count what was done; once."""
        if not self._closed:
            self._closed = True
            if self.ticket is not None:
                self._service.scheduler.cancel(self.ticket)
                self._record(self.ticket)

    def _count(self) -> None:
        self.completion_tokens += 1
        self.reasoning_tokens += self._parser.thinking
        if self._first is None:
            self._first = time.monotonic()

    def _record(self, ticket: Ticket) -> None:
        metrics = self._service.metrics
        key = ticket.request.key or "-"
        now = time.monotonic()
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
        record = json.loads((release.graph / "export.json").read_text(encoding="utf-8"))
        self.vocabulary: int = record["vocabulary"]
        # the table of a model may be larger than its tokenizer's vocabulary, or smaller
        tokens = max(self.vocabulary, tokenizer.size)
        self.grammars = Grammars(release.graph, tokens, self.defaults.end_tokens)
        self.tool_format = tool_format(tokenizer.template_source) if tokenizer.takes_tools else None
        # one token where the model was trained to think
        self._end_think = tokenizer.token(END_THINK)
        self._thinks = self._end_think is not None or any(
            mark in tokenizer.template_source for mark in (THINK, END_THINK)
        )
        self.metrics = Metrics(scheduler, release)
        self.created = int((release.graph / "export.json").stat().st_mtime)

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
                self.tokenizer.encode(text, whole=False),
                options,
                thinking=thinking,
                tools=self.tool_format if tools is not None else None,
                grammar=self._grammar(tools, schema, thinking=bool(thinking)),
            )
        )

    def tokens(self, prompt: str | Sequence[int]) -> Sequence[int]:
        """A prompt as tokens. Raises TextError."""
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if not tokens:
            raise TextError("the prompt is empty; this model needs at least one token to go on")
        if max(tokens) >= self.vocabulary:
            raise TextError(
                f"the vocabulary has the tokens 0 to {self.vocabulary - 1}; {max(tokens)} is none"
            )
        return tokens

    def completion(self, prompt: Sequence[int], options: Options) -> Job:
        """Raises PromptTooLongError or UnsupportedError."""
        return self._job(Job(prompt, options))

    def _job(self, job: Job) -> Job:
        if len(job.prompt) >= self.scheduler.max_len:
            raise PromptTooLongError(len(job.prompt), self.scheduler.max_len)
        options = job.options
        reads = Sampling(
            logprobs=options.logprobs,
            logit_bias=options.logit_bias,
            repetition_penalty=options.repetition_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
        ).reads_logits
        if not self._has_logits and (reads or job.grammar):
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

    def _grammar(
        self, tools: Tools | None, schema: Mapping[str, Any] | None, *, thinking: bool
    ) -> Grammar | None:
        # thoughts are free: the grammar holds from their end on
        after = self._end_think if thinking else None
        if thinking and after is None and (schema is not None or (tools and tools.force)):
            raise UnsupportedError(
                "response_format" if schema is not None else "tool_choice",
                "This model's thoughts do not end in a token of their own, so what follows "
                "them cannot be enforced.",
            )
        if tools is not None and tools.force:
            return self._forced_call(tools, after)
        return None if schema is None else self.grammars.json(schema, after)

    def _forced_call(self, tools: Tools, after: int | None) -> Grammar:
        form = self.tool_format
        if form is None or form.arguments is None:
            raise UnsupportedError(
                "tool_choice", "The calls of this model's chat template cannot be enforced."
            )
        schemas = [form.schema(f) for f in tools.functions if f["name"] in tools.force]
        begin, end = (f"{form.begin}\n", f"\n{form.end}") if form.end else ("", "")
        return self.grammars.one_of(begin, schemas, end, after)

    def start(self, jobs: Sequence[Job], key: str = "") -> list[Generation]:
        """Begin every job's answers, or none.

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
            (self._request(job, choice, key), Generation(self, job, number))
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
    async for _chunk in generation.chunks():
        pass
    if not generation.completion_tokens:
        raise ServingError("the warm-up generation gave no token")


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
    )
    has_logits = gives_logits(engine)
    scheduler = Scheduler(engine, limits)
    service = Service(
        release,
        scheduler,
        tokenizer,
        timeout=settings.request_timeout,
        has_logits=has_logits,
    )
    scheduler.start()
    return service
