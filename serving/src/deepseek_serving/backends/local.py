"""The local engine as a backend: a verified release that generates answers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence

from deepseek_serving.backends.answer import Generation
from deepseek_serving.backends.errors import PromptTooLongError, UnsupportedError
from deepseek_serving.backends.event_bridge import EventBridge
from deepseek_serving.backends.requests import GenerationRequest, RequestFactory
from deepseek_serving.backends.sampling_choice import sampling, without_logits
from deepseek_serving.check.bounded import check
from deepseek_serving.errors import ServingError, TokenizerError
from deepseek_serving.generation.constrained import Grammars
from deepseek_serving.generation.request import Options
from deepseek_serving.generation.scheduler import Limits, Request, Scheduler
from deepseek_serving.metrics import EngineState, Metrics
from deepseek_serving.runtime import Engine
from deepseek_serving.runtime.engine import open_engine
from deepseek_serving.runtime.question import Question
from deepseek_serving.settings import EngineSettings, ModelSettings
from deepseek_serving.text.generation_defaults import Defaults, read_defaults
from deepseek_serving.text.template_environment import TemplateError
from deepseek_serving.text.tokenizer import ChatTokenizer, TextError
from deepseek_serving.trust.release import Release

logger = logging.getLogger(__name__)

# log probabilities of prompts in one answer: about 10 MB of JSON
MOST_SCORES = 2**17


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
        aliases: Sequence[str] = (),
    ) -> None:
        self.release = release
        self.aliases = aliases
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.timeout = timeout
        self.defaults: Defaults = read_defaults(release.graph, tokenizer.token)
        if not has_logits and self.defaults != without_logits(self.defaults):
            logger.warning(
                "the graph of this release gives no logits, which some of the checkpoint's "
                "generation_config.json needs and which has no effect; publish the release again"
            )
            self.defaults = without_logits(self.defaults)
        known = vocabulary(release)
        # the table of a model may be larger than its tokenizer's vocabulary, or smaller
        tokens = max(known, tokenizer.size)
        self.grammars = Grammars(release.graph, tokens, self.defaults.end_tokens)
        self.requests = RequestFactory(
            release.model,
            tokenizer,
            self.grammars,
            max_len=scheduler.max_len,
            vocabulary=known,
            has_logits=has_logits,
        )
        self._has_logits = has_logits
        self.metrics = Metrics(EngineState(scheduler, release))
        self._bridge: EventBridge | None = None
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

    def _event_bridge(self) -> EventBridge:
        """The bridge into the loop that runs."""
        loop = asyncio.get_running_loop()
        if self._bridge is None or self._bridge.loop is not loop:
            self._bridge = EventBridge(loop)
        return self._bridge

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

    def start(
        self, requests: Sequence[GenerationRequest], key: str = "", *, may_return: bool = False
    ) -> list[Generation]:
        """Begin every request's answers, or none.

        `may_return`: a service that stops gives back what it has not begun, with
        GenerationReturnedError.

        Raises UnsupportedError, QueueFullError or ClosedError.
        """
        count = sum(request.options.n for request in requests)
        if count > self.scheduler.most:
            raise UnsupportedError(
                "n",
                f"{count} answers are asked for; at most {self.scheduler.most} can be in work and "
                "wait together.",
            )
        check_scores(requests)
        bridge = self._event_bridge()
        pairs = [
            (
                self._scheduled(request, choice, key, may_return=may_return),
                Generation(
                    request,
                    number,
                    scheduler=self.scheduler,
                    tokenizer=self.tokenizer,
                    metrics=self.metrics,
                    bridge=bridge,
                ),
            )
            for number, request in enumerate(requests)
            for choice in range(request.options.n)
        ]
        tickets = self.scheduler.submit_all([(r, g.receive) for r, g in pairs])
        for ticket, (_request, generation) in zip(tickets, pairs, strict=True):
            generation.ticket = ticket
        return [generation for _request, generation in pairs]

    def _scheduled(
        self, request: GenerationRequest, choice: int, key: str, *, may_return: bool
    ) -> Request:
        options, defaults = request.options, self.defaults
        room = self.scheduler.max_len - len(request.prompt)
        most = options.max_tokens
        if most is None:
            most = room if defaults.max_tokens is None else defaults.max_tokens
        chosen = sampling(options, defaults, choice, has_logits=self._has_logits)
        return Request(
            request.prompt,
            min(room, most),
            chosen.end_tokens,
            chosen,
            key,
            self.timeout,
            request.grammar.constraint() if request.grammar else None,
            options.score,
            may_return,
        )


def check_scores(requests: Sequence[GenerationRequest]) -> None:
    """Raises UnsupportedError for more log probabilities than an answer may hold."""
    scores = sum(
        request.options.n * len(request.prompt) * (1 + request.options.score)
        for request in requests
        if request.options.score is not None
    )
    if scores > MOST_SCORES:
        raise UnsupportedError(
            "prompt_logprobs",
            f"{scores} log probabilities of the prompt's tokens are asked for (each token, and "
            f"the best ones in its place, in each answer); at most {MOST_SCORES} are given.",
        )


def _first_request(service: Service) -> GenerationRequest:
    """A short conversation, or tokens where the template has nothing to say to it.

    A template may refuse what is no conversation of its kind, or render nothing of it.
    """
    options = Options(max_tokens=4)
    hello = {"role": "user", "content": "Hello"}
    for messages in ([hello], [{"role": "system", "content": "Be brief."}, hello]):
        try:
            return service.requests.chat(messages, options)
        except (TemplateError, TextError, PromptTooLongError) as error:
            logger.info("the template does not take the first question: %s", error)
    # any tokens will do, and the last of a vocabulary may be none
    few = range(min(4, service.requests.vocabulary, service.max_len - 1))
    return service.requests.completions([list(few)], options)[0]


async def warm_up(service: Service) -> None:
    """One short generation, so that readiness means that the whole path works."""
    (generation,) = service.start([_first_request(service)])
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
    tokenizer = ChatTokenizer(release.graph, settings.text_is_data)
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
        aliases=model.aliases,
    )
    scheduler.start()
    return service
