"""Tokens with the log probabilities that the model itself gives them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deepseek_serving.generation.distribution import Floats, NotANumberError, best


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its natural-log probability."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Choice:
    """A token; where they were asked for, its log probability, its rank and the best ones' too.

    The rank is 1 for the likeliest.
    """

    token: int
    logprob: float | None = None
    top: tuple[TokenLogprob, ...] = ()
    rank: int = 0


def scored(row: Floats, token: int, count: int) -> Choice:
    """A token with the `count` best ones of its row. Raises NotANumberError."""
    highest = float(row.max())
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        weights = np.exp(row - np.float32(highest))
    total = highest + float(np.log(weights.sum()))
    if not np.isfinite(total):
        raise NotANumberError
    top: tuple[TokenLogprob, ...] = ()
    if count:
        values, tokens = best(row, count)
        top = tuple(
            TokenLogprob(int(token), float(value) - total)
            for value, token in zip(values, tokens, strict=True)
        )
    value = row[token]
    return Choice(token, float(value) - total, top, int(np.count_nonzero(row > value)) + 1)


class PromptScores:
    """Scored tokens of a prompt, in order, in a tenth of the memory that choices take."""

    def __init__(self) -> None:
        self._tokens, self._ranks = array("i"), array("i")
        self._logprobs = array("d")
        # of the best, and where those of each token end
        self._top_tokens, self._top_logprobs, self._ends = array("i"), array("d"), array("q", [0])

    def add(self, choice: Choice) -> None:
        self._tokens.append(choice.token)
        self._ranks.append(choice.rank)
        self._logprobs.append(choice.logprob or 0.0)
        for entry in choice.top:
            self._top_tokens.append(entry.token)
            self._top_logprobs.append(entry.logprob)
        self._ends.append(len(self._top_tokens))

    def __len__(self) -> int:
        return len(self._tokens)

    def __iter__(self) -> Iterator[Choice]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, place: int) -> Choice:
        first, end = self._ends[place], self._ends[place + 1]
        top = zip(self._top_tokens[first:end], self._top_logprobs[first:end], strict=True)
        return Choice(
            self._tokens[place],
            self._logprobs[place],
            tuple(TokenLogprob(token, logprob) for token, logprob in top),
            self._ranks[place],
        )
