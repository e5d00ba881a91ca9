"""Few processes that judge large bodies, and the bounded queues in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import pickle
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from deepseek_serving.generation.concurrency import ConcurrencyLimiter
from deepseek_serving.generation.scheduler import QueueFullError
from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.validation import Reading
from deepseek_serving.http.validation_process import LENGTH_BYTES

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "deepseek_serving.http.validation_process")
# Large bodies in memory; more wait, each with no more than its beginning.
BODIES = 4
WAITING = 64
# for a body's turn, and for its judgement, on a machine with much else to do
WAIT_SECONDS = 20.0
JUDGE_SECONDS = 20.0
BEGIN_SECONDS = 5.0


def processes() -> int:
    return max(1, min(4, len(os.sched_getaffinity(0)) // 2))


def busy() -> ApiError:
    return ApiError(
        429,
        "Too many large requests are being read; try again later.",
        kind="rate_limit_error",
        code="queue_full",
        headers={"retry-after": "1"},
    )


class _Judge:
    """One process, started when it is needed."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> asyncio.subprocess.Process:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**20,
            )
        return process

    async def judge(self, reading: Reading, chunks: Sequence[bytes]) -> Any:
        """Raises EOFError or ConnectionError where the process ended."""
        process = await self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        head = pickle.dumps(reading)
        process.stdin.write(len(head).to_bytes(LENGTH_BYTES, "big") + head)
        process.stdin.write(sum(map(len, chunks)).to_bytes(LENGTH_BYTES, "big"))
        for chunk in chunks:
            process.stdin.write(chunk)
            await process.stdin.drain()
        return await _answer(process.stdout)

    async def retired(self) -> bool:
        """Whether the process that ended had done its work, and was only not kept."""
        return await self._ended() == 0

    async def end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._ended()

    async def _ended(self) -> int | None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return None
        process.stdin.close()
        with contextlib.suppress(OSError):
            await process.stdin.wait_closed()
        return await process.wait()


class _Unpickler(pickle.Unpickler):
    """With the texts that were sent before."""

    def __init__(self, data: bytes, texts: Sequence[str]) -> None:
        super().__init__(io.BytesIO(data))
        self._texts = texts

    def persistent_load(self, pid: int) -> str:
        return self._texts[pid]


async def _frame(source: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await source.readexactly(LENGTH_BYTES), "big")
    return await source.readexactly(size)


async def _answer(source: asyncio.StreamReader) -> Any:
    """What the process writes; others have their turn while a long text comes."""
    texts = []
    # written by our own process
    for count in pickle.loads(await _frame(source)):  # noqa: S301
        text = ""
        for _piece in range(count):
            piece = (await _frame(source)).decode("utf-8")
            # A text to which nothing else refers grows where it is; joining pieces copies all of
            # it at once, for which the event loop has no time.
            text += piece
        texts.append(text)
    return _Unpickler(await _frame(source), texts).load()


class ValidationPool:
    """Belongs to one event loop."""

    def __init__(self, command: Sequence[str] = COMMAND, count: int | None = None) -> None:
        self._bodies = ConcurrencyLimiter(BODIES, WAITING, WAITING // 2)
        self._all = [_Judge(command) for _judge in range(count or processes())]
        # those that are free; the last first, so that the others' memory may go
        self._free = list(self._all)
        self._turns = asyncio.Semaphore(len(self._all))
        self._beginning: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Start them soon: it takes half a second of a processor each, which others want now."""
        self._beginning = asyncio.ensure_future(self._begin())

    async def _begin(self) -> None:
        await asyncio.sleep(BEGIN_SECONDS)
        for judge in self._all:
            async with self._turns:
                # one that is not free has been started already
                if judge in self._free:
                    self._free.remove(judge)
                    try:
                        await judge.start()
                    finally:
                        self._free.insert(0, judge)

    @asynccontextmanager
    async def place(self, line: str) -> AsyncIterator[None]:
        """For one body, while it is read and judged. Raises ApiError if there is none in time."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                place = stack.enter_async_context(self._bodies.place(line))
                await asyncio.wait_for(place, WAIT_SECONDS)
            except (QueueFullError, asyncio.TimeoutError) as error:
                raise busy() from error
            yield

    async def judge(self, reading: Reading, chunks: Sequence[bytes]) -> Any:
        """What the body asks for. Raises RefusedError, or ApiError if it cannot be told."""
        async with self._turns:
            judge = self._free.pop()
            try:
                found = await self._ask(judge, reading, chunks)
            finally:
                self._free.append(judge)
        try:
            if isinstance(found, RefusedError):
                raise found
            return found
        finally:
            # an error that a frame of its own traceback names would keep the body
            del found

    async def _ask(self, judge: _Judge, reading: Reading, chunks: Sequence[bytes]) -> Any:
        try:
            return await asyncio.wait_for(self._tried(judge, reading, chunks), JUDGE_SECONDS)
        except asyncio.TimeoutError as error:
            await judge.end()
            raise busy() from error
        except BaseException:
            # it is in the middle of something
            await judge.end()
            raise

    async def _tried(self, judge: _Judge, reading: Reading, chunks: Sequence[bytes]) -> Any:
        may_retire = True
        while True:
            try:
                return await judge.judge(reading, chunks)
            except (EOFError, ConnectionError) as error:
                if await judge.retired() and may_retire:
                    may_retire = False
                    continue
                # by its own bounds of time and memory
                logger.warning("a process that judges large bodies ended, and is started again")
                raise RefusedError(
                    "The request body takes more time or memory to read than it may.",
                    code="request_too_complex",
                ) from error

    async def close(self) -> None:
        if self._beginning is not None:
            self._beginning.cancel()
            await asyncio.wait({self._beginning})
        for judge in self._all:
            await judge.end()
