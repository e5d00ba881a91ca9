"""Rates and quotas per key: what a minute allows, refilled as it passes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from deepseek_serving.policy.keys import Key

Clock = Callable[[], float]


class Bucket:
    """Holds at most what a minute allows; may be in debt, when an answer took more than thought."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self.capacity = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    def resize(self, per_minute: int) -> None:
        self._refill()
        self.capacity = per_minute
        self._level = min(self._level, per_minute)

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._at) * self.capacity / 60)
        self._at = now

    def seconds_until(self, amount: float) -> float:
        """Until so much is there; 0 if it is."""
        self._refill()
        return max(0.0, amount - self._level) * 60 / self.capacity

    def take(self, amount: float) -> None:
        self._refill()
        self._level = min(self.capacity, self._level - amount)

    @property
    def remaining(self) -> int:
        self._refill()
        return max(0, math.floor(self._level))


@dataclass(frozen=True)
class Refusal:
    """Which quota is used up, and for how long; never, if the request alone is more than it."""

    quota: str
    limit: int
    seconds: float
    never: bool = False


class Allowance:
    """What one key has left."""

    def __init__(self, key: Key, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}
        self.update(key)

    def update(self, key: Key) -> None:
        """The key's quotas may have changed; what was used stays used."""
        wanted = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
        for name, per_minute in wanted.items():
            if per_minute is None:
                self._buckets.pop(name, None)
            elif name not in self._buckets:
                self._buckets[name] = Bucket(per_minute, self._clock)
            elif self._buckets[name].capacity != per_minute:
                self._buckets[name].resize(per_minute)

    def take(self, quota: str, amount: int) -> Refusal | None:
        """Take so much, or say why not."""
        bucket = self._buckets.get(quota)
        if bucket is None:
            return None
        if amount > bucket.capacity:
            return Refusal(quota, bucket.capacity, 0, never=True)
        seconds = bucket.seconds_until(amount)
        if seconds > 0:
            return Refusal(quota, bucket.capacity, seconds)
        bucket.take(amount)
        return None

    def settle(self, reserved: int, used: int) -> None:
        """Give back the tokens that were not used, or take those that were used beyond."""
        if "tokens" in self._buckets:
            self._buckets["tokens"].take(used - reserved)

    def headers(self) -> dict[str, str]:
        found = {}
        for name, bucket in self._buckets.items():
            reset = bucket.seconds_until(bucket.capacity)
            found[f"x-ratelimit-limit-{name}"] = str(bucket.capacity)
            found[f"x-ratelimit-remaining-{name}"] = str(bucket.remaining)
            found[f"x-ratelimit-reset-{name}"] = f"{reset:.3f}s"
        return found


class Limiter:
    """The allowances of all keys; they outlive a reload of the keys."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._allowances: dict[str, Allowance] = {}

    def of(self, key: Key) -> Allowance:
        allowance = self._allowances.get(key.id)
        if allowance is None:
            allowance = self._allowances[key.id] = Allowance(key, self._clock)
        allowance.update(key)
        return allowance
