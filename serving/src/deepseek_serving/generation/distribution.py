"""A token of a distribution over the whole vocabulary, of which little is read where that suffices.

Engines give the 64 best logits of a step, sorted. `top_k` up to that many and a `min_p` that ends
among them leave nothing else to choose from. For the rest the sum over the vocabulary is needed.
Where the best tell the outcome whatever that sum is within its bounds, it is not made; else the
whole row is read. So what is chosen is exact in every case, and the same for the same draw.

The order is that of vLLM's sampler: temperature, `min_p`, `top_k`, and `top_p` of what these left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Tokens: TypeAlias = npt.NDArray[np.int64]

# as many as the graph's TopK gives
CANDIDATES = 64
# while top_p needs more tokens than there are, so many times as many are looked at
MORE = 16
# tokens that are added up at a time
BLOCK = 256
# as in vLLM: below it, the division would leave one token anyhow
LEAST_TEMPERATURE = 1e-5


class NotANumberError(Exception):
    """The engine gave a sequence logits that are no numbers."""


def best(row: Floats, count: int) -> tuple[Floats, Tokens]:
    """The best of a row that may be chosen at all, best first; ties by the token's number."""
    count = min(count, len(row))
    # everything as good as the last that fits, so that ties do not depend on the partition
    limit = np.partition(row, len(row) - count)[len(row) - count]
    tokens = np.flatnonzero((row >= limit) & (row > -np.inf))
    tokens = tokens[np.argsort(-row[tokens], kind="stable")][:count]
    return row[tokens], tokens.astype(np.int64)


class Distribution:
    """What one step of a sequence may choose from.

    `values` and `tokens` are the best, sorted; `row` gives the logits of the whole vocabulary, of
    `size` tokens. Without a `row` there is nothing but the best; without a `size` it is not known.
    """

    def __init__(
        self,
        values: Floats,
        tokens: Tokens,
        row: Callable[[], Floats] | None,
        size: int | None,
        temperature: float,
    ) -> None:
        self._values, self._tokens = values, tokens
        self._row = row if len(values) >= CANDIDATES else None
        self.size = size
        self._highest = float(values[0])
        self._temperature = max(temperature, LEAST_TEMPERATURE)

    def choose(self, draw: float, *, top_k: int = 0, top_p: float = 1, min_p: float = 0) -> int:
        """The token at `draw`, from 0 on and below 1; raises NotANumberError."""
        self._keep(top_k, min_p)
        weights = self._weights(self._values)
        cumulative = np.cumsum(weights)
        known = float(cumulative[-1])
        if self._row is None:
            return self._token(_place(cumulative, known, draw, top_p) or 0)
        if self.size is not None:
            # nothing beyond the best weighs more than the last of them
            most = known + max(0, self.size - len(weights)) * float(weights[-1])
            least = _place(cumulative, known, draw, top_p)
            if least is not None and least == _place(cumulative, most, draw, top_p):
                # one of these places is between both
                return self._token(least)
        return self._of_all(cumulative, draw, top_p)

    def _keep(self, top_k: int, min_p: float) -> None:
        """Leave out what neither keeps; the rest is not asked for if that ends among the best."""
        if top_k > len(self._values) and self._row is not None:
            self._values, self._tokens = best(self._row(), top_k)
            self._row = None
        limit = self._highest + self._temperature * np.log(min_p) if min_p > 0 else -np.inf
        if self._row is not None and top_k == 0 and self._values[-1] >= limit > -np.inf:
            row = self._row()
            self._values, self._tokens = best(row, int(np.count_nonzero(row >= limit)))
            self._row = None
        kept = len(self._values)
        if min_p > 0:
            # the best weighs 1, and stays whatever rounding does
            kept = max(1, int(np.count_nonzero(self._weights(self._values) >= min_p)))
        if top_k:
            kept = min(kept, top_k)
        if kept < len(self._values) or 0 < top_k <= len(self._values):
            self._values, self._tokens = self._values[:kept], self._tokens[:kept]
            self._row = None

    def _weights(self, values: Floats) -> Doubles:
        """In parts of the best one's."""
        with np.errstate(over="ignore"):
            return np.exp((values.astype(np.float64) - self._highest) / self._temperature)

    def _of_all(self, cumulative: Doubles, draw: float, top_p: float) -> int:
        assert self._row is not None
        row = self._row()
        self.size = len(row)
        weights = self._row_weights(row)
        # NumPy adds pairwise, so that this is exact to a millionth
        total = max(float(weights.sum()), float(cumulative[-1]))
        if not np.isfinite(total):
            raise NotANumberError
        place = _place(cumulative, total, draw, top_p)
        if place is not None:
            return self._token(place)
        if top_p < 1:
            return self._of_more(row, total, draw, top_p)
        # what is not among the best, in the order of its numbers
        weights[self._tokens] = 0
        beyond = total - float(cumulative[-1])
        token = _at(weights, (draw * total - float(cumulative[-1])) / beyond if beyond > 0 else 0)
        return self._token(len(cumulative) - 1) if token is None else token

    def _row_weights(self, row: Floats) -> Floats:
        """The same for a whole row, in one array; what is no number makes no warning here."""
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            weights = row - np.float32(self._highest)
            if self._temperature != 1:
                weights *= np.float32(1 / self._temperature)
            np.exp(weights, out=weights)
        return weights

    def _of_more(self, row: Floats, total: float, draw: float, top_p: float) -> int:
        """`top_p` reaches beyond the best: as many more as it takes."""
        count = len(self._values)
        while True:
            count = min(count * MORE, len(row))
            self._values, self._tokens = best(row, count)
            cumulative = np.cumsum(self._weights(self._values))
            everything = len(self._values) < count or count == len(row)
            place = _place(cumulative, float(cumulative[-1]) if everything else total, draw, top_p)
            if place is not None:
                return self._token(place)

    def _token(self, place: int) -> int:
        return int(self._tokens[place])


def _at(weights: Floats, share: float) -> int | None:
    """The token at this share of all weights, in the order of their numbers; None without any.

    Blocks are added up first: to add up every single token takes as long as to make the weights.
    """
    sums = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK))
    ends = np.cumsum(sums, dtype=np.float64)
    if not ends[-1] > 0:
        return None
    wanted = min(max(share, 0.0), 1.0) * float(ends[-1])
    block = min(int(np.searchsorted(ends, wanted, side="right")), int(np.argmax(ends)))
    first = block * BLOCK
    inside = np.cumsum(weights[first : first + BLOCK], dtype=np.float64)
    left = wanted - float(ends[block] - sums[block])
    # never one that weighs nothing
    return first + min(int(np.searchsorted(inside, left, side="right")), int(np.argmax(inside)))


def _place(cumulative: Doubles, total: float, draw: float, top_p: float) -> int | None:
    """Which of the best `draw` falls on, if all weights sum to `total`; None: on none of them."""
    limit = total
    if top_p < 1:
        # a token stays if those before it do not reach top_p; the first always stays
        last = int(np.searchsorted(cumulative, top_p * total, side="left"))
        if last == len(cumulative):
            return None
        limit = float(cumulative[last])
    place = int(np.searchsorted(cumulative, draw * limit, side="right"))
    if place == len(cumulative):
        # by rounding, if there is nothing else
        return place - 1 if limit <= cumulative[-1] else None
    return place
