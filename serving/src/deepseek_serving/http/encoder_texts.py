"""Texts for encoders: read beside the event loop, or refused in OpenAI's terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from deepseek_serving.backends.encoder_thread import TooLongError
from deepseek_serving.generation.scheduler import QueueFullError
from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.offload import SMALL, OffLoop

Made = TypeVar("Made")


def encoder_busy() -> ApiError:
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
        raise encoder_busy() from error
