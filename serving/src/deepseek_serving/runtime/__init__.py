"""What runs the graphs: one interface for decoders, one for encoders, one file per engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Candidates:
    """The best next tokens of each sequence, best first; a view that the next step overwrites."""

    values: npt.NDArray[np.float32]
    tokens: npt.NDArray[np.int64]


class Engine(Protocol):
    """A decoder with a static KV cache of `slots` sequences of at most `max_len` tokens.

    Not thread-safe: one thread, the scheduler's, calls it.
    """

    slots: int
    max_len: int

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        """Read a chunk of a prompt into a slot at position `start`; candidates [1, 64] after it."""

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        """One step for slots 0 to len(tokens) - 1; candidates [len(tokens), 64].

        `lengths` is what each slot's cache holds so far; the token is written there. A slot that is
        idle, or still in prefill, takes part with any token: what it writes is overwritten by the
        next real token at that place, and never read before.
        """

    def reset(self) -> None:
        """No slot is in use: the engine may forget what the cache holds."""

    def clear(self, slot: int) -> None:
        """Zeros in a slot that is not in use: what a failed step left must not be multiplied."""

    def logits(self) -> npt.NDArray[np.float32]:
        """All logits of the last step [its sequences, vocabulary]; a view, as Candidates are.

        EngineError if the graph was exported without them.
        """


@dataclass(frozen=True)
class Pair:
    """Two texts as a cross-encoder reads them: their tokens, and which of the two each is of."""

    tokens: Sequence[int]
    types: Sequence[int]


class Scorer(Protocol):
    """A text encoder that judges pairs of texts, of up to `max_len` tokens together."""

    max_len: int

    def score(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
        """What the graph's head says of each pair [pairs], before any activation."""


class Encoder(Protocol):
    """A text encoder; texts of any number and length up to `max_len` tokens."""

    size: int
    max_len: int

    def embed(self, batch: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """One row [size] for each text, given as its token ids."""
