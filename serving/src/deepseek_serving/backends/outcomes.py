"""Whether an engine behind this service still answers, told by what becomes of requests."""

from __future__ import annotations

import time
from collections.abc import Callable

# One request alone may be to blame; so many one after the other, and none in between that was
# answered, and the engine is asked.
FAILURES = 3


class Outcomes:
    """How requests end, and since when the engine owes an answer. Belongs to one event loop.

    It only raises doubts. A client that asks for what fails must not be able to take the service
    away from others, so it is a question of our own that decides.
    """

    def __init__(self, doubt_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._doubt_seconds = doubt_seconds
        self._clock = clock
        self._begun: dict[object, float] = {}
        self._life = clock()
        self.failures = 0

    def begin(self, request: object) -> None:
        """Note that the engine has the request from now on."""
        self._begun[request] = self._clock()

    def end(self, request: object) -> None:
        """Note that the request is over, however it ended."""
        self._begun.pop(request, None)

    def came(self) -> None:
        """Note that some of an answer came."""
        self._life = self._clock()

    def answered(self) -> None:
        """Note that an answer came to its end."""
        self.came()
        self.failures = 0

    def failed(self) -> None:
        """Note that the engine failed to answer a request, or broke off in the answer."""
        self.failures += 1

    @property
    def waited(self) -> float:
        """Seconds for which requests have waited and nothing came, to any of them."""
        first = min(self._begun.values(), default=None)
        return 0.0 if first is None else self._clock() - max(first, self._life)

    @property
    def doubtful(self) -> bool:
        return self.failures >= FAILURES or self.waited >= self._doubt_seconds
