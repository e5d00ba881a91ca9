"""A question whose answer is known: what an engine said when it was loaded.

After a step that failed it tells a request's fault from the engine's. Whether the engine answers as
its release does is asked when it is built and started (`engine.golden`), not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deepseek_serving.runtime import Candidates, Engine

LENGTH = 16
# of a logit: batches of another size sum in another order
TOLERANCE = 0.02
# far apart, so that the tokens are of many kinds
STEP = 7919


@dataclass(frozen=True)
class Question:
    """Tokens, and what was best after each from the middle on, with its logit."""

    tokens: Sequence[int]
    answers: Sequence[tuple[int, float]]

    @classmethod
    def learn(cls, engine: Engine, vocabulary: int) -> Question:
        """Ask an engine in which no slot is in use."""
        tokens = [(1 + STEP * place) % vocabulary for place in range(min(LENGTH, engine.max_len))]
        answers = [
            (int(found.tokens[row, 0]), float(found.values[row, 0]))
            for found, row in _ask(engine, 0, (), tokens)
        ]
        engine.reset()
        return cls(tokens, answers)

    def is_answered(self, engine: Engine, slot: int, before: Sequence[tuple[int, int]]) -> bool:
        """Whether the engine says the same in a free slot; what else it holds stays.

        `before`: of each slot before it, the token that is next and where a step may write it.
        """
        asked = _ask(engine, slot, before, self.tokens)
        right = [
            self._is_right(found, row, *answer)
            for (found, row), answer in zip(asked, self.answers, strict=True)
        ]
        # a tie may fall the other way
        return right.count(False) <= 1

    def _is_right(self, found: Candidates, row: int, token: int, value: float) -> bool:
        best = float(found.values[row, 0])
        if not np.isfinite(best):
            return False
        close = abs(best - value) <= TOLERANCE * max(1.0, abs(value))
        return close or int(found.tokens[row, 0]) == token


def _ask(
    engine: Engine, slot: int, before: Sequence[tuple[int, int]], tokens: Sequence[int]
) -> Iterator[tuple[Candidates, int]]:
    half = max(1, len(tokens) // 2)
    yield engine.prefill(slot, tokens[:half], 0), 0
    others = [token for token, _length in before]
    lengths = [length for _token, length in before]
    for place in range(half, len(tokens)):
        yield engine.decode([*others, tokens[place]], [*lengths, place]), slot
