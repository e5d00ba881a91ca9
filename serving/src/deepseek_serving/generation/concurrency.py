"""A limit of requests in work, and a bounded queue in front of it in which keys take turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deepseek_serving.generation.fair import FairQueue
from deepseek_serving.generation.scheduler import QueueFullError


class ConcurrencyLimiter:
    """Belongs to one event loop."""

    def __init__(self, places: int, queue: int, queue_per_key: int | None = None) -> None:
        """`queue_per_key` None: as many of one key may wait as may wait in all."""
        self.places = places
        self.busy = 0
        self._queue = queue
        self._per_key = queue if queue_per_key is None else queue_per_key
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def place(self, key: str) -> AsyncIterator[None]:
        """Wait for a place and hold it. Raises QueueFullError where too many wait already."""
        await self._enter(key)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, key: str) -> None:
        if self.busy < self.places:
            self.busy += 1
            return
        if len(self._waiting) >= self._queue:
            raise QueueFullError
        if self._waiting.waiting(key) >= self._per_key:
            raise QueueFullError(of_key=True)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.push(key, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(lambda waiting: waiting is turn)
            else:
                # the waiter was cancelled after it had got the place: the next one gets it
                self._leave()
            raise

    def _leave(self) -> None:
        """Pass the place on to the next waiter."""
        while self._waiting:
            _key, turn = self._waiting.pop()
            if not turn.done():
                turn.set_result(None)
                return
        self.busy -= 1
