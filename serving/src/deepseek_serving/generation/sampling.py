"""Choose the next token of a sequence.

The order is that of vLLM 0.25 (vllm/v1/sample/sampler.py): what may come at all (a grammar, and no
end before `min_tokens`), biases, penalties (of repetition over prompt and answer; of frequency and
presence over the answer), and then temperature, `min_p`, `top_k` and `top_p`. Log probabilities are
the model's own, before all of that.

The engine's candidates suffice for many requests; the whole row is asked for only where it could
make a difference.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deepseek_serving.generation.distribution import (
    CANDIDATES,
    LEAST_TEMPERATURE,
    Distribution,
    Floats,
    NotANumberError,
    Tokens,
    best,
)
from deepseek_serving.generation.probabilities import Choice, scored


class SamplingError(Exception):
    """No token may follow."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    `temperature` 0 is greedy; `top_p` keeps the likeliest tokens whose sum reaches it; `top_k` 0
    keeps all; `min_p` is a share of the likeliest token's probability. Before `min_tokens` tokens
    none of `end_tokens` comes.

    `choice` numbers the answers to one request: each draws numbers of its own. Without `has_row`
    the engine has nothing but its candidates.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    min_tokens: int = 0
    end_tokens: frozenset[int] = frozenset()
    choice: int = 0
    has_row: bool = True

    @property
    def greedy(self) -> bool:
        return self.temperature < LEAST_TEMPERATURE

    @property
    def penalises(self) -> bool:
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )

    @property
    def reads_logits(self) -> bool:
        """Whether the candidates alone never suffice."""
        return (
            self.penalises
            or bool(self.logit_bias)
            or self.logprobs is not None
            or self.min_tokens > 0
            or (self.top_k > CANDIDATES and not self.greedy)
        )

    @property
    def reshapes(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        return self.penalises or bool(self.logit_bias) or self.min_tokens > 0

    def generator(self) -> np.random.Generator:
        if self.seed is None:
            return np.random.default_rng()
        return np.random.default_rng([self.seed, self.choice] if self.choice else self.seed)


class Constraint(Protocol):
    """What the sequence must look like: JSON, for instance.

    What may come next can take time to find out, which passes elsewhere.
    """

    def begin(self, wake: Callable[[], None]) -> None:
        """Find out what may come next; `wake` is called, from any thread, when that is known."""

    def wait(self, seconds: float) -> bool:
        """Whether it is known, after so long at the latest; `allowed` may be asked then."""

    def allowed(self) -> npt.NDArray[np.bool_] | None:
        """Which tokens may come next; None for all."""

    def accept(self, token: int) -> None:
        """The token that was chosen."""

    @property
    def complete(self) -> bool:
        """Nothing may follow; False as long as it is not known."""


class Sampler:
    """The state of one sequence: its random numbers, what it has said, what it may say."""

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], constraint: Constraint | None = None
    ) -> None:
        self._sampling = sampling
        self._prompt = prompt
        self._constraint = constraint
        self._said: Counter[int] = Counter()
        self._chosen = 0
        # of the vocabulary, once a row was read
        self._size: int | None = None

    # most requests need few of these, and each takes as long as parsing the request

    @functools.cached_property
    def _reshapes(self) -> bool:
        return self._sampling.reshapes

    @functools.cached_property
    def _greedy(self) -> bool:
        return self._sampling.greedy

    @functools.cached_property
    def _generator(self) -> np.random.Generator:
        return self._sampling.generator()

    @functools.cached_property
    def _read(self) -> Tokens:
        """The prompt's tokens, each once."""
        return np.unique(np.asarray(self._prompt, dtype=np.int64))

    @functools.cached_property
    def _biases(self) -> tuple[Tokens, Floats]:
        bias = self._sampling.logit_bias
        return np.array(list(bias), dtype=np.int64), np.array(list(bias.values()), np.float32)

    @functools.cached_property
    def _ends(self) -> Tokens:
        return np.array(sorted(self._sampling.end_tokens), dtype=np.int64)

    @property
    def complete(self) -> bool:
        return self._constraint is not None and self._constraint.complete

    def begin(self, wake: Callable[[], None]) -> None:
        """Find out what may come next; `wake` is called, from any thread, when that is known."""
        if self._constraint is not None:
            self._constraint.begin(wake)

    def wait(self, seconds: float) -> bool:
        """Whether `choose` may be asked, after so long at the latest."""
        return self._constraint is None or self._constraint.wait(seconds)

    def choose(self, values: Floats, tokens: Tokens, logits: Callable[[], Floats]) -> Choice:
        """The next token; `logits` is called only if the candidates do not suffice.

        Raises SamplingError or NotANumberError.
        """
        # best first, so that infinity comes first; NaN may be anywhere
        if not -np.inf < values[0] < np.inf or np.isnan(values).any():
            raise NotANumberError
        sampling = self._sampling
        allowed = self._constraint.allowed() if self._constraint else None
        if self._reshapes or allowed is not None:
            row = logits()
            if not np.isfinite(row.max()):
                raise NotANumberError
            adjusted = self._adjusted(row, allowed)
            values, tokens = best(adjusted, CANDIDATES)
            if not len(tokens):
                raise SamplingError("no token may follow")
            token = self._one(values, tokens, lambda: adjusted)
        else:
            token = self._one(values, tokens, logits if sampling.has_row else None)
        self._chosen += 1
        if self._reshapes:
            self._said[token] += 1
        if self._constraint is not None:
            self._constraint.accept(token)
        if sampling.logprobs is None:
            return Choice(token)
        return scored(logits(), token, sampling.logprobs)

    def _one(self, values: Floats, tokens: Tokens, row: Callable[[], Floats] | None) -> int:
        """One of what is left, the best of it sorted."""
        sampling = self._sampling
        # greedy sequences are never to make the generator
        if self._greedy:
            return int(tokens[0])
        left = Distribution(values, tokens, row, self._size, sampling.temperature)
        token = left.choose(
            self._generator.random(),
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )
        self._size = left.size
        return token

    def _adjusted(self, row: Floats, allowed: npt.NDArray[np.bool_] | None) -> Floats:
        """The row as this sequence sees it."""
        row = row.copy()
        if self._chosen < self._sampling.min_tokens:
            row[self._ends[self._ends < len(row)]] = -np.inf
        biased, biases = self._biases
        row[biased] += biases
        if self._sampling.penalises:
            self._penalise(row)
        if allowed is not None:
            row[: len(allowed)][~allowed[: len(row)]] = -np.inf
            # the table may be padded beyond the tokenizer's vocabulary
            row[len(allowed) :] = -np.inf
        return row

    def _penalise(self, row: Floats) -> None:
        sampling = self._sampling
        said = np.fromiter(self._said.keys(), dtype=np.int64, count=len(self._said))
        counts = np.fromiter(self._said.values(), dtype=np.float32, count=len(self._said))
        seen = np.union1d(self._read, said)
        penalty = np.float32(sampling.repetition_penalty)
        row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
        row[said] -= np.float32(sampling.presence_penalty)
        row[said] -= np.float32(sampling.frequency_penalty) * counts
