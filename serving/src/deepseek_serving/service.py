"""The model as the API sees it: messages in, text out as it is generated."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from deepseek_serving.errors import ServingError
from deepseek_serving.metrics import Metrics
from deepseek_serving.release import Release
from deepseek_serving.runtime.engine import open_engine
from deepseek_serving.sampling import Sampling
from deepseek_serving.scheduler import Event, Request, Scheduler
from deepseek_serving.settings import EngineSettings, ModelSettings
from deepseek_serving.text import ChatTokenizer, Defaults, StopScanner, read_defaults


class PromptTooLongError(ValueError):
    """The prompt leaves no room for an answer."""

    def __init__(self, tokens: int, max_len: int) -> None:
        super().__init__(
            f"This model's context length is {max_len} tokens; the messages are {tokens} tokens "
            "and leave no room for an answer. Shorten the messages."
        )


class GenerationFailedError(Exception):
    """The engine failed, or the service stopped, before the answer was complete."""


@dataclass(frozen=True)
class Options:
    """What a request may choose; None takes the checkpoint's or the service's default."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()


class Generation:
    """One answer in the making: iterate over `text()` once, read the rest, and `close()`."""

    def __init__(self, service: Service, prompt: Sequence[int], options: Options) -> None:
        self._service = service
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._stop = StopScanner(options.stop)
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        self._first: float | None = None
        self._closed = False
        self.prompt_tokens = len(prompt)
        self.completion_tokens = 0
        self.finish_reason: str = ""
        self._ticket = service.scheduler.submit(service.request(prompt, options), self._receive)

    def _receive(self, event: Event) -> None:
        """Called from the scheduler's thread."""
        # the loop is closed only when the process ends; nobody waits for the event then
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def text(self) -> AsyncIterator[str]:
        """Pieces of the answer, none of them empty."""
        stream = self._service.tokenizer.stream()
        try:
            while not self.finish_reason:
                event = await self._events.get()
                piece = ""
                if event.token is not None:
                    self._count()
                    if event.finish != "stop":
                        piece = self._stop.push(stream.push(event.token))
                if self._stop.stopped:
                    self.finish_reason = "stop"
                elif event.finish in ("stop", "length"):
                    self.finish_reason = event.finish
                    piece += self._stop.finish()
                elif event.finish is not None:
                    raise GenerationFailedError(event.finish)
                if piece:
                    yield piece
        finally:
            self.close()

    def close(self) -> None:
        """Free the slot, if the answer is not complete, and count what was done; once."""
        if not self._closed:
            self._closed = True
            self._service.scheduler.cancel(self._ticket)
            self._record()

    def _count(self) -> None:
        self.completion_tokens += 1
        if self._first is None:
            self._first = time.monotonic()

    def _record(self) -> None:
        metrics = self._service.metrics
        metrics.finished.labels(self.finish_reason or "cancelled").inc()
        metrics.generation_tokens.inc(self.completion_tokens)
        if self._ticket.started is not None:
            metrics.prompt_tokens.inc(self.prompt_tokens)
            metrics.queue.observe(self._ticket.started - self._ticket.submitted)
        if self._first is not None:
            metrics.ttft.observe(self._first - self._began)
            if self.completion_tokens > 1:
                taken = time.monotonic() - self._first
                metrics.tpot.observe(taken / (self.completion_tokens - 1))


class Service:
    """A verified release, loaded and ready to generate."""

    def __init__(self, release: Release, scheduler: Scheduler, tokenizer: ChatTokenizer) -> None:
        self.release = release
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.defaults: Defaults = read_defaults(release.graph)
        self.metrics = Metrics(scheduler, release)
        self.created = int((release.graph / "export.json").stat().st_mtime)

    def request(self, prompt: Sequence[int], options: Options) -> Request:
        room = self.scheduler.max_len - len(prompt)
        if room < 1:
            raise PromptTooLongError(len(prompt), self.scheduler.max_len)
        defaults = self.defaults
        sampling = Sampling(
            temperature=(
                defaults.temperature if options.temperature is None else options.temperature
            ),
            top_p=defaults.top_p if options.top_p is None else options.top_p,
            seed=options.seed,
        )
        wanted = room if options.max_tokens is None else min(room, options.max_tokens)
        return Request(prompt, wanted, defaults.end_tokens, sampling)

    def generate(self, messages: Sequence[Mapping[str, str]], options: Options) -> Generation:
        """Start an answer.

        Raises TemplateError, PromptTooLongError, QueueFullError or ClosedError.
        """
        return Generation(self, self.tokenizer.prompt(messages), options)


async def warm_up(service: Service) -> None:
    """One short generation, so that readiness means that the whole path works."""
    generation = service.generate([{"role": "user", "content": "Hello"}], Options(max_tokens=4))
    async for _text in generation.text():
        pass
    if not generation.completion_tokens:
        raise ServingError("the warm-up generation gave no token")


def load(release: Release, model: ModelSettings, settings: EngineSettings) -> Service:
    """Load a verified release and start its scheduler."""
    tokenizer = ChatTokenizer(release.graph)
    engine = open_engine(
        release,
        store=model.store,
        public_key=model.public_key,
        key=settings.key,
        threads=settings.threads,
        slots=settings.slots,
        max_len=settings.max_len,
    )
    scheduler = Scheduler(engine, queue=settings.queue, prefill_chunk=settings.prefill_chunk)
    service = Service(release, scheduler, tokenizer)
    scheduler.start()
    return service
