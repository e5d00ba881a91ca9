"""Prometheus metrics, in the field's terms."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from deepseek_serving.release import Release
from deepseek_serving.scheduler import Scheduler

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class _Live(Collector):
    """Values read when Prometheus asks for them."""

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
            "deepseek_ready", "1 while requests are accepted", value=self._scheduler.healthy
        )
        release = {
            "model": self._release.model,
            "version": self._release.version,
            "digest": self._release.digest,
        }
        yield InfoMetricFamily("deepseek_release", "The verified release served", value=release)


class Metrics:
    """One registry per service, so that two services in one process do not mix."""

    def __init__(self, scheduler: Scheduler, release: Release) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "deepseek_http_requests",
            "HTTP requests by path and status",
            ["path", "status"],
            registry=self.registry,
        )
        self.finished = Counter(
            "deepseek_generations",
            "Generations by the reason for which they ended",
            ["reason"],
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "deepseek_prompt_tokens", "Tokens read from prompts", registry=self.registry
        )
        self.generation_tokens = Counter(
            "deepseek_generation_tokens", "Tokens generated", registry=self.registry
        )
        self.queue = Histogram(
            "deepseek_queue_seconds",
            "Time that a request waited for a slot",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.ttft = Histogram(
            "deepseek_time_to_first_token_seconds",
            "TTFT: from the request to its first token",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.tpot = Histogram(
            "deepseek_time_per_output_token_seconds",
            "TPOT: mean time per token after the first, per request",
            buckets=TOKEN_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_Live(scheduler, release))
