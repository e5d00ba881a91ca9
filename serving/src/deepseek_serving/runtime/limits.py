"""What every engine checks: the settings against the export, and a step against both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_serving.errors import EngineError


def limits(record: Mapping[str, Any], slots: int | None, max_len: int | None) -> tuple[int, int]:
    """Slots and longest sequence; None takes what the graph was exported with."""
    exported = record["parameters"]
    if max_len is not None and max_len > exported["max_len"]:
        raise EngineError(
            f"engine.max_len is {max_len}, the graph was exported for at most "
            f"{exported['max_len']}; lower it or export again with a larger --max-len"
        )
    return (
        exported["slots"] if slots is None else slots,
        exported["max_len"] if max_len is None else max_len,
    )


def check_bounds(
    tokens: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    max_len: int,
    vocabulary: int,
) -> None:
    """What lies outside would be read or written somewhere in the GPU's memory."""
    last = starts.max() + tokens.shape[1] - 1
    if starts.min() < 0 or last >= max_len:
        raise EngineError(
            f"tokens at {starts.min()} to {last} do not fit into a cache of {max_len}"
        )
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise EngineError(
            f"token ids {tokens.min()} to {tokens.max()} are not all in the vocabulary of "
            f"{vocabulary}"
        )
