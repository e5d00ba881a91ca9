"""Batches of texts, as token ids, for the text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from deepseek_serving.errors import EngineError

Integers = npt.NDArray[np.int64]


class Texts:
    """A batch that the encoder can read; EngineError names the text that it cannot."""

    def __init__(self, batch: Sequence[Sequence[int]], max_len: int, vocabulary: int) -> None:
        lengths = [len(tokens) for tokens in batch]
        for number, length in enumerate(lengths):
            if not 0 < length <= max_len:
                raise EngineError(
                    f"text {number} is {length} tokens; the encoder reads 1 to {max_len}, so cut "
                    "longer texts into pieces"
                )
        self._lengths = np.array(lengths, dtype=np.int64)
        self._ends = np.cumsum(self._lengths)
        self._tokens = np.fromiter(chain.from_iterable(batch), np.int64, sum(lengths))
        wrong = np.flatnonzero((self._tokens < 0) | (self._tokens >= vocabulary))
        if wrong.size:
            number = int(np.searchsorted(self._ends, wrong[0], side="right"))
            raise EngineError(
                f"text {number} has the token id {self._tokens[wrong[0]]}, outside 0 to "
                f"{vocabulary - 1}; use the tokenizer beside the graph"
            )

    def __len__(self) -> int:
        return len(self._lengths)

    def longest(self, first: int, count: int) -> int:
        return int(self._lengths[first : first + count].max())

    def write(
        self, first: int, count: int, tokens: npt.NDArray[np.integer], mask: npt.NDArray[np.integer]
    ) -> None:
        """Fill token ids and attention mask [rows, width]; what is left over is padding."""
        lengths = np.zeros(len(mask), dtype=np.int64)
        lengths[:count] = self._lengths[first : first + count]
        kept = np.arange(mask.shape[1]) < lengths[:, None]
        begin = self._ends[first] - self._lengths[first]
        mask[:] = kept
        tokens[:] = 0
        tokens[kept] = self._tokens[begin : self._ends[first + count - 1]]
