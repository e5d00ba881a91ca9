"""The thread of an encoder, and the bounded queue in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from deepseek_serving.errors import EngineError, library_error

# texts that an encoder reads together
BATCH = 16

Item = TypeVar("Item")
Rows = npt.NDArray[np.float32]


class TooLongError(ValueError):
    """A text is longer than the encoder reads."""


class BusyError(Exception):
    """As many requests wait as may wait."""


class EncoderThread:
    """One encoder, used by one request at a time; `queue` more may wait."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self._present = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    async def run(self, items: Sequence[Item], encode: Callable[[Sequence[Item]], Rows]) -> Rows:
        """What `encode` makes of the items, a row for each: a batch at a time, in the thread.

        Raises BusyError, and EngineError where what is made is no numbers.
        """
        if self._present > self._queue:
            raise BusyError
        self._present += 1
        try:
            loop = asyncio.get_running_loop()
            parts = [
                # a long list lets others in between
                await loop.run_in_executor(
                    self._worker, _checked, encode, items[first : first + BATCH]
                )
                for first in range(0, len(items), BATCH)
            ]
        finally:
            self._present -= 1
        return np.concatenate(parts)

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)


def _checked(encode: Callable[[Sequence[Item]], Rows], items: Sequence[Item]) -> Rows:
    try:
        made = encode(items)
    except BaseException as error:
        raise library_error("the encoder", error) from error
    if not np.isfinite(made).all():
        raise EngineError("the encoder made values that are no numbers")
    return made
