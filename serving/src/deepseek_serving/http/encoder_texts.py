"""Texts for encoders: read beside the event loop, or refused in OpenAI's terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from deepseek_serving.backends.encoder_thread import BusyError, TooLongError
from deepseek_serving.generation.scheduler import QueueFullError
from deepseek_serving.http.auth import Caller
from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.offload import SMALL, OffLoop

Made = TypeVar("Made")


def _busy() -> ApiError:
    """What is said to a client for whose texts the queue has no room."""
    return ApiError(
        429,
        "Too many requests are waiting; try again later.",
        kind="rate_limit_error",
        code="queue_full",
        headers={"retry-after": "1"},
    )


async def read_texts(
    make: Callable[[], Made], size: int, off_loop: OffLoop, line: str, param: str
) -> Made:
    """What `make` makes of texts of `size` characters, or tokens. Raises ApiError for `param`."""
    try:
        return make() if size <= SMALL else await off_loop.run(make, line)
    except TooLongError as error:
        raise ApiError(400, str(error), param=param, code="context_length_exceeded") from error
    except ValueError as error:
        raise ApiError(400, str(error), param=param, code="invalid_value") from error
    except QueueFullError as error:
        raise _busy() from error


@contextmanager
def charged(who: Caller, tokens: int) -> Iterator[None]:
    """Charge tokens to the caller's key, and give them back where the encoder takes no more work.

    Raises ApiError, as the key's limits do.
    """
    who.take("tokens", tokens)
    try:
        yield
    except BusyError as error:
        who.settle(tokens, 0)
        raise _busy() from error
