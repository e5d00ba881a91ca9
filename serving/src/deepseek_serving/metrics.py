"""Prometheus metrics, in the field's terms."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from deepseek_serving.generation.scheduler import Scheduler
from deepseek_serving.policy.keys import KeyRing
from deepseek_serving.trust.release import Release

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


def readiness(release: Release, *, ready: bool) -> Iterable[Metric]:
    """Metrics that every service has: readiness and release."""
    yield GaugeMetricFamily("deepseek_ready", "1 while requests are accepted", value=ready)
    names = {"model": release.model, "version": release.version, "digest": release.digest}
    yield InfoMetricFamily("deepseek_release", "The verified release served", value=names)


def client_label(line: str) -> str:
    """The label that stands for a line of clients: a key's id or a certificate's name.

    What a gateway says of its clients is left out, or there would be as many series as addresses.
    """
    return line.partition("/")[0] or "-"


class EngineState(Collector):
    """Values of an engine of our own, read when Prometheus asks for them."""

    def __init__(self, scheduler: Scheduler, release: Release) -> None:
        self._scheduler = scheduler
        self._release = release

    def collect(self) -> Iterable[Metric]:
        state = self._scheduler.state()
        yield GaugeMetricFamily(
            "deepseek_queue_requests", "Requests that wait for a slot", value=state.waiting
        )
        yield GaugeMetricFamily("deepseek_slots", "Slots of the KV cache", value=state.slots)
        yield GaugeMetricFamily(
            "deepseek_slots_busy", "Slots with a sequence in them", value=state.busy
        )
        yield GaugeMetricFamily(
            "deepseek_kv_cache_tokens",
            "Tokens in the KV cache, kept ones of earlier prompts included",
            value=state.cache_tokens,
        )
        yield GaugeMetricFamily(
            "deepseek_kv_cache_capacity_tokens",
            "Tokens that the KV cache can hold",
            value=state.slots * self._scheduler.max_len,
        )
        for name, text, count in (
            ("prefix_cache_queries", "Prompts looked up in the prefix cache", state.prompts),
            ("prefix_cache_hits", "Prompts of which the cache held a prefix", state.prompts_reused),
            (
                "prefix_cache_query_tokens",
                "Prompt tokens looked up in the prefix cache",
                state.prompt_tokens,
            ),
            (
                "prefix_cache_hit_tokens",
                "Prompt tokens found in the prefix cache",
                state.prompt_tokens_reused,
            ),
            ("decode_steps", "Decode steps of the engine", state.decode_steps),
            (
                "decode_step_tokens",
                "Tokens decoded; divided by decode_steps: mean batch size",
                state.decoded_tokens,
            ),
        ):
            yield CounterMetricFamily(f"deepseek_{name}", text, value=count)
        yield from readiness(self._release, ready=self._scheduler.healthy)


class KeyState(Collector):
    """Whether API keys can be checked, read when Prometheus asks."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def collect(self) -> Iterable[Metric]:
        for name, text, value in (
            ("api_keys", "API keys in force", self._ring.in_force),
            (
                "api_keys_broken_seconds",
                "Time since the file of API keys became unusable; 0 while it is whole",
                self._ring.seconds_broken,
            ),
        ):
            yield GaugeMetricFamily(f"deepseek_{name}", text, value=value)


class Metrics:
    """One registry per service, so that two services in one process do not mix."""

    def __init__(self, state: Collector) -> None:
        """`state`: what is measured when somebody asks."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "deepseek_http_requests",
            "HTTP requests by path and status",
            ["path", "status"],
            registry=self.registry,
        )
        self.finished = Counter(
            "deepseek_generations",
            "Generations by finish reason",
            ["reason", "key"],
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "deepseek_prompt_tokens",
            "Prompt tokens of requests that got a slot",
            ["key"],
            registry=self.registry,
        )
        self.generation_tokens = Counter(
            "deepseek_generation_tokens", "Tokens generated", ["key"], registry=self.registry
        )

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"deepseek_{name}", text, buckets=buckets, registry=self.registry)

        self.queue = histogram("queue_seconds", "Time that a request waited for a slot")
        self.ttft = histogram(
            "time_to_first_token_seconds", "TTFT: from the request to its first token"
        )
        self.tpot = histogram(
            "time_per_output_token_seconds",
            "TPOT: mean time per token after the first, per request",
            TOKEN_SECONDS,
        )
        self.e2e = histogram("e2e_request_latency_seconds", "From the request to its last token")
        self.prompt_length = histogram("request_prompt_tokens", "Tokens of a prompt", TOKENS)
        self.generation_length = histogram(
            "request_generation_tokens", "Tokens of an answer", TOKENS
        )
        self.registry.register(state)
