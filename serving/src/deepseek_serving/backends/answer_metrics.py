"""What one answer has cost, recorded in the service's metrics when it has ended."""

from __future__ import annotations

import time

from deepseek_serving.generation.scheduler import Ticket
from deepseek_serving.metrics import Metrics, client_label


class AnswerMetrics:
    """Tokens and times of one answer. Times are seconds of the monotonic clock."""

    def __init__(self, metrics: Metrics, prompt_tokens: int) -> None:
        self._metrics = metrics
        self._began = time.monotonic()
        self._first: float | None = None
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self.reasoning_tokens = 0

    def count_token(self, *, thinking: bool) -> None:
        """One more token was generated; `thinking`: as part of a thought."""
        self.completion_tokens += 1
        self.reasoning_tokens += thinking
        if self._first is None:
            self._first = time.monotonic()

    def record(self, ticket: Ticket, now: float, finish: str, *, complete: bool) -> None:
        """Count and observe an answer that ended at `now` as `finish` says."""
        metrics, key = self._metrics, client_label(ticket.request.key)
        metrics.finished.labels(finish, key).inc()
        metrics.generation_tokens.labels(key).inc(self.completion_tokens)
        if ticket.started is not None:
            metrics.prompt_tokens.labels(key).inc(self.prompt_tokens)
            metrics.queue.observe(ticket.started - ticket.submitted)
        if self._first is not None:
            metrics.ttft.observe(self._first - self._began)
            if self.completion_tokens > 1:
                metrics.tpot.observe((now - self._first) / (self.completion_tokens - 1))
        if complete:
            metrics.e2e.observe(now - self._began)
            metrics.prompt_length.observe(self.prompt_tokens)
            metrics.generation_length.observe(self.completion_tokens)
