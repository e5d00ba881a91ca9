"""Threads for what would hold the event loop: few, and with a bounded queue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from deepseek_serving.generation.concurrency import ConcurrencyLimiter

Result = TypeVar("Result")

# Text of so many characters, or so many tokens, is handled at once: it takes less than a change of
# threads may.
SMALL = 2048


class OffLoop:
    """Only for work that lets go of the interpreter's lock; belongs to one event loop."""

    def __init__(self, queue: int = 64) -> None:
        threads = max(1, min(4, len(os.sched_getaffinity(0)) // 2))
        self._gate = ConcurrencyLimiter(threads, queue, max(1, queue // 2))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="off-loop")

    async def run(self, work: Callable[[], Result], line: str = "") -> Result:
        """What the work gives; the keys (`line`) take turns. Raises QueueFullError."""
        async with self._gate.place(line):
            doing = asyncio.get_running_loop().run_in_executor(self._pool, work)
            try:
                return await asyncio.shield(doing)
            except asyncio.CancelledError:
                # a thread cannot be stopped, and has its place until it ends
                await asyncio.wait({doing})
                raise
            finally:
                # it has the work's error, which would keep this frame and all that it names
                del doing

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
