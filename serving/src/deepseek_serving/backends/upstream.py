"""Another server that has the model, on the same host.

Any server that speaks OpenAI's API does: it loads what cannot be loaded here, and this service is
its only door, with the same keys, limits, metrics and errors as for an engine of our own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deepseek_serving.backends.outcomes import Outcomes
from deepseek_serving.errors import CheckpointError, ServingError, SettingsError
from deepseek_serving.generation.concurrency import ConcurrencyLimiter
from deepseek_serving.metrics import Metrics, readiness
from deepseek_serving.settings import Task, UpstreamSettings
from deepseek_serving.text.documents import read_object
from deepseek_serving.text.known_tokens import KnownTokens
from deepseek_serving.trust.release import Release

logger = logging.getLogger(__name__)

# One that does not answer a question about itself in this time does not answer others, either.
PROBE_SECONDS = 5.0
ASKS_FOR_A_KEY = frozenset({401, 403})
# A busy server may miss one.
MISSES = 2


@dataclass(frozen=True)
class Question:
    """What is asked, beside the model."""

    path: str
    body: Mapping[str, Any]

    @property
    def is_salted(self) -> bool:
        return "cache_salt" in self.body


_HELLO = {"role": "user", "content": "Hello"}
_ORDER = {"role": "system", "content": "Be brief."}
# A template may refuse what is no conversation of its kind, or render nothing of it; and servers
# refuse parameters that they do not know. The first that is answered is asked from then on.
FIRST_QUESTIONS: Mapping[Task, Sequence[Question]] = {
    "generate": [
        Question(path, {"max_tokens": 1, **body, **salt})
        for path, body in (
            ("/v1/chat/completions", {"messages": [_HELLO]}),
            ("/v1/chat/completions", {"messages": [_ORDER, _HELLO]}),
            ("/v1/completions", {"prompt": "Hello"}),
        )
        for salt in ({"cache_salt": "first question"}, {})
    ],
    "embed": [Question("/v1/embeddings", {"input": "Hello"})],
    "score": [
        Question("/v1/score", {"text_1": "Hello", "text_2": "Hello"}),
        Question("/v1/rerank", {"query": "Hello", "documents": ["Hello"]}),
    ],
}


class _State(Collector):
    """Values read when Prometheus asks for them."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def collect(self) -> Iterable[Metric]:
        upstream = self._upstream
        for name, text, value in (
            ("queue_requests", "Requests that wait for a place", upstream.gate.waiting),
            ("slots", "Requests that may be in work together", upstream.gate.places),
            ("slots_busy", "Requests in work", upstream.gate.busy),
        ):
            yield GaugeMetricFamily(f"deepseek_{name}", text, value=value)
        yield from readiness(upstream.release, ready=upstream.healthy)


class Upstream:
    """The upstream: whether it is ready, and the connections to it. Raises CheckpointError."""

    def __init__(
        self, release: Release, settings: UpstreamSettings, aliases: Sequence[str] = ()
    ) -> None:
        self.release = release
        self.aliases = aliases
        self.settings = settings
        self.tokens = _known_tokens(release.graph)
        self.developer = _knows_developers(release.graph)
        self.gate = ConcurrencyLimiter(settings.concurrency, settings.queue, settings.queue_per_key)
        self.metrics = Metrics(_State(self))
        self.outcomes = Outcomes(settings.doubt_seconds)
        self.created = int(time.time())
        self.max_len: int | None = None
        # the upstream is its own unit, which systemd restarts
        self.failed = self.stuck = False
        self._ready = self._answered = False
        self.draining = False
        self._watch: asyncio.Task[None] | None = None
        self._question: Question | None = None
        self._salts: bool | None = None
        self._secret = secrets.token_bytes(32)
        base, socket = settings.address
        self.client = httpx2.AsyncClient(
            base_url=base,
            # a connection that cannot be made has cost nothing; whatever else fails is not repeated
            transport=httpx2.AsyncHTTPTransport(
                uds=socket,
                retries=1,
                limits=httpx2.Limits(
                    max_connections=None,
                    max_keepalive_connections=32,
                    # shorter than servers keep idle ones, so that none is closed as it is used
                    keepalive_expiry=2,
                ),
            ),
            # a client's own limit holds for the whole request
            timeout=httpx2.Timeout(None, connect=PROBE_SECONDS, read=settings.silent_seconds),
            headers=self._headers(),
        )

    def _headers(self) -> dict[str, str]:
        """What every request to the upstream carries. Raises SettingsError."""
        path = self.settings.key_file
        if path is None:
            return {}
        try:
            key = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"upstream.key_file: {path} cannot be read: {error}") from error
        if not key or not key.isprintable() or " " in key:
            raise SettingsError(f"upstream.key_file: {path} holds no key: one line without spaces")
        return {"authorization": f"Bearer {key}"}

    @property
    def healthy(self) -> bool:
        return self._ready and not self.draining

    def drain(self) -> None:
        """Take no more requests; those that are here go on."""
        self.draining = True

    def lost(self) -> None:
        """Nobody listens there. The watch finds out when somebody does again."""
        if self._ready:
            logger.error("the upstream %s is gone; not ready until it is back", self.settings.url)
        self._ready = False

    def silent(self) -> None:
        """An answer has stopped coming; one that hangs may call itself healthy, so it is asked."""
        if self._ready:
            logger.error(
                "nothing came from the upstream %s for %g s; not ready until it answers a question",
                self.settings.url,
                self.settings.silent_seconds,
            )
        self._ready = False

    async def begin(self) -> None:
        """Wait until the server is ready, and keep an eye on it from then on.

        ServingError if it is not within the time that the settings give it.
        """
        until = time.monotonic() + self.settings.start_seconds
        while not await self._warm():
            if time.monotonic() >= until:
                raise ServingError(
                    f"upstream.url: {self.settings.url} was not ready within "
                    f"{self.settings.start_seconds:g} s; look at its own log, or raise "
                    "upstream.start_seconds"
                )
            await asyncio.sleep(self.settings.poll_seconds)
        self._watch = asyncio.create_task(self._keep_watch())

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self.client.aclose()

    async def _keep_watch(self) -> None:
        misses = 0
        while True:
            await asyncio.sleep(self.settings.poll_seconds)
            try:
                misses = await self._look(misses)
            except Exception:
                # a watch that has ended would leave the last thing it saw standing for ever
                logger.exception("the upstream could not be looked at")
                self.lost()

    async def _look(self, misses: int) -> int:
        """How often in a row it has not answered."""
        if not self._ready:
            await self._warm()
            return 0
        if await self._alive():
            if self.outcomes.doubtful:
                await self._doubt()
            return 0
        if misses + 1 >= MISSES:
            self.lost()
        return misses + 1

    async def _doubt(self) -> None:
        """Ask the question whose answer decides: one that fails requests may call itself healthy.

        Without an answer it is not ready, until it has answered one.
        """
        failures, waited = self.outcomes.failures, self.outcomes.waited
        if await self._answers(self._question):
            self.outcomes.answered()
            return
        if self._ready:
            logger.error(
                "the upstream %s failed %d requests in a row, those it has wait for %.0f s, and it "
                "does not answer a question; not ready until it does",
                self.settings.url,
                failures,
                waited,
            )
        self._ready = False

    async def _alive(self) -> bool:
        try:
            answer = await self.client.get(self.settings.health_path, timeout=PROBE_SECONDS)
        except httpx2.HTTPError as error:
            logger.debug("the upstream does not answer: %r", error)
            return False
        return answer.is_success

    async def _warm(self) -> bool:
        """One token, so that readiness means that the whole path works."""
        if not await self._alive() or not await self._asks_for_a_key():
            return False
        if not await self._answers():
            return False
        self.max_len = await self._longest()
        logger.info("the upstream %s is ready", self.settings.url)
        self._ready = self._answered = True
        self.outcomes.answered()
        return True

    async def _answers(self, known: Question | None = None) -> bool:
        """Whether it answers a question of one token: the known one, or one that it takes."""
        refusal = None
        questions = FIRST_QUESTIONS[self.settings.task] if known is None else (known,)
        for question in questions:
            answer = await self._asked(question)
            if answer is None:
                return False
            if answer.is_success:
                self._question = question
                self._note_salting(question)
                return True
            # that of the plainest of them says most
            refusal = refusal if refusal is not None and question.is_salted else answer
            if answer.status_code in ASKS_FOR_A_KEY:
                break
        assert refusal is not None
        logger.error(
            "the upstream refuses upstream.model %r with status %d: %s",
            self.settings.model,
            refusal.status_code,
            error_text(refusal.content)[:500],
        )
        return False

    async def _asked(self, question: Question) -> httpx2.Response | None:
        """Its answer, or None if none came."""
        body = {"model": self.settings.model, **question.body}
        try:
            # the client's own limit is one for each part of an answer
            asking = self.client.post(question.path, json=body, timeout=self._patience)
            return await asyncio.wait_for(asking, self._patience)
        except (httpx2.HTTPError, asyncio.TimeoutError) as error:
            logger.error("the upstream did not answer a question: %r", error)
            return None

    def _note_salting(self, question: Question) -> None:
        generates = self.settings.task == "generate"
        if generates and not question.is_salted and self._salts is not False:
            logger.warning(
                "the upstream %s does not take cache_salt: if it keeps a prefix cache, clients "
                "share it, and can tell by the time whether another has sent the same text",
                self.settings.url,
            )
        self._salts = question.is_salted

    def salt(self, line: str) -> str | None:
        """What keeps the cached prompts of one client (its key, or its address) from others'.

        None for an upstream that knows of no salts. Those without this process's secret
        can make no other client's; it is another one after a restart.
        """
        if not self._salts:
            return None
        return hmac.new(self._secret, line.encode("utf-8", "replace"), "sha256").hexdigest()

    @property
    def _patience(self) -> float:
        """Seconds for the answer to a question: many while a server loads."""
        times = self.settings
        if not self._answered:
            return times.start_seconds
        return min(times.question_seconds, times.silent_seconds)

    async def _asks_for_a_key(self) -> bool:
        """Whether it lets nobody in without a key, where every user of this host can reach it."""
        if self.settings.allow_without_key or self.settings.address[1] is not None:
            return True
        try:
            answer = await self.client.get(
                "/v1/models", headers={"authorization": ""}, timeout=PROBE_SECONDS
            )
        except httpx2.HTTPError as error:
            logger.debug("the upstream does not answer: %r", error)
            return False
        if answer.status_code in ASKS_FOR_A_KEY:
            return True
        logger.error(
            "the upstream %s answers without a key (status %d), so every user of this host can ask "
            "it, past keys, limits and log. Let it ask for the key in upstream.key_file (vLLM: "
            "VLLM_API_KEY), let it listen on a Unix socket (unix:/PATH), or accept it with "
            "upstream.allow_without_key",
            self.settings.url,
            answer.status_code,
        )
        return False

    async def _longest(self) -> int | None:
        """The longest sequence, from servers that tell."""
        try:
            answer = await self.client.get("/v1/models", timeout=PROBE_SECONDS)
            cards = {card["id"]: card for card in answer.raise_for_status().json()["data"]}
            length = cards[self.settings.model]["max_model_len"]
        except (httpx2.HTTPError, ValueError, LookupError, TypeError):
            return None
        return length if isinstance(length, int) else None


def _known_tokens(checkpoint: Path) -> KnownTokens:
    """A tokenizer in another form than tokenizer.json tells of none. Raises CheckpointError."""
    path = checkpoint / "tokenizer.json"
    tokenizer = read_object(path, CheckpointError) if path.is_file() else {}
    return KnownTokens.of(read_object(checkpoint / "config.json", CheckpointError), tokenizer)


def _knows_developers(checkpoint: Path) -> bool:
    """Whether a template of the checkpoint names the role; others would leave such messages out."""
    files = [checkpoint / "tokenizer_config.json", *checkpoint.glob("*.jinja")]
    texts = (path.read_text("utf-8", "replace") for path in files if path.is_file())
    return any("developer" in text for text in texts)


def error_text(content: bytes) -> str:
    """What a server's error says, in whichever of the usual shapes it has; empty if in none."""
    try:
        body = json.loads(content)
    except ValueError:
        return ""
    found: Any = body.get("error", body) if isinstance(body, Mapping) else None
    if isinstance(found, Mapping):
        found = found.get("message") or found.get("detail")
    return found if isinstance(found, str) else ""
