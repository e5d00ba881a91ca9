"""Golden answers of a prepared decoder, for the smoke test of whatever is compiled from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek_serving.prepare.tensors import Floats

CANDIDATES = 8
SEQUENCES = 4
LONGEST = 32


class Golden:
    """The best tokens at each position of the first held-out windows, as the gate judged them."""

    def __init__(self) -> None:
        self._sequences: list[dict[str, Any]] = []

    def add(self, tokens: Sequence[int], logits: Floats) -> None:
        """Keep the beginning of a window; no position depends on those that follow it."""
        if len(self._sequences) == SEQUENCES:
            return
        indices, values = [], []
        for row in logits[:LONGEST]:
            best, rounded = _best(row)
            indices.append(best)
            values.append(rounded)
        self._sequences.append(
            {"input": list(tokens[:LONGEST]), "top_indices": indices, "top_values": values}
        )

    def record(self) -> dict[str, Any]:
        candidates = {len(best) for s in self._sequences for best in s["top_indices"]}
        return {
            "schema": 1,
            "kind": "decoder",
            "tokens": max(candidates, default=0),
            "sequences": self._sequences,
        }


def _best(row: Floats) -> tuple[list[int], list[float]]:
    """The best tokens; equal ones by number, so that their order depends on no processor."""
    count = min(CANDIDATES, len(row))
    # all that could be among them once rounded
    least = np.partition(row, -count)[-count]
    near = np.flatnonzero(row >= least - 1e-5 * abs(least))
    ranked = sorted((-short(float(row[index])), int(index)) for index in near)[:count]
    # subtracted, so that zero has no sign
    return [index for _value, index in ranked], [0.0 - value for value, _index in ranked]


def short(value: float) -> float:
    """Six digits: what follows them depends on the processor."""
    return float(f"{value:.6g}")
