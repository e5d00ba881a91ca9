"""Choose the next token among an engine's candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_p keeps the likeliest tokens whose sum reaches it."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None

    def generator(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def choose(
    values: npt.NDArray[np.float32],
    tokens: npt.NDArray[np.int64],
    sampling: Sampling,
    generator: np.random.Generator,
) -> int:
    """One token of one sequence's candidates, which are sorted, best first."""
    if sampling.temperature == 0:
        return int(tokens[0])
    with np.errstate(over="ignore"):
        # a tiny temperature sends all but the best to minus infinity, as it should
        scaled = (values.astype(np.float64) - values[0]) / sampling.temperature
    weights = np.exp(scaled)
    weights /= weights.sum()
    # a token stays if those before it do not reach top_p; the first always stays
    before = np.cumsum(weights) - weights
    weights[1:][before[1:] >= sampling.top_p] = 0
    cumulative = np.cumsum(weights)
    index = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    return int(tokens[min(int(index), len(tokens) - 1)])
