"""Choose the next token of a sequence.

Sampling reads the candidates that the engine gives, best first. Only a request that could prefer a
token outside of them, or that wants log probabilities, makes the engine hand over the whole row.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]

# as many as the graph's TopK gives
CANDIDATES = 64


class SamplingError(Exception):
    """No token may follow."""


class NotANumberError(Exception):
    """The engine gave a sequence logits that are no numbers."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    `temperature` 0 is greedy; `top_p` keeps the likeliest tokens whose sum reaches it; `top_k` 0
    keeps all; `min_p` is a share of the likeliest token's probability.

    `choice` numbers the answers to one request: each draws numbers of its own.
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
    choice: int = 0
    # none of `ends` is chosen before there are `min_tokens`
    min_tokens: int = 0
    ends: frozenset[int] = frozenset()

    @property
    def penalises(self) -> bool:
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )

    @property
    def reads_logits(self) -> bool:
        """Whether the candidates alone do not suffice."""
        return (
            self.penalises
            or bool(self.logit_bias)
            or self.logprobs is not None
            or self.min_tokens > 0
        )

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


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its natural-log probability."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Choice:
    """A token; where they were asked for, its log probability and those of the best."""

    token: int
    logprob: float | None = None
    top: tuple[TokenLogprob, ...] = ()


def choose(
    values: Floats, tokens: Tokens, sampling: Sampling, generator: np.random.Generator
) -> int:
    """One token of one sequence's candidates, which are sorted, best first."""
    if sampling.temperature == 0:
        return int(tokens[0])
    with np.errstate(over="ignore"):
        # a tiny temperature sends all but the best to minus infinity, as it should
        scaled = (values.astype(np.float64) - values[0]) / sampling.temperature
    weights = np.exp(scaled)
    # the best weighs 1 here, so this is relative to it
    weights[weights < sampling.min_p] = 0
    if sampling.top_k:
        weights[sampling.top_k :] = 0
    weights /= weights.sum()
    # a token stays if those before it do not reach top_p; the first always stays
    before = np.cumsum(weights) - weights
    weights[1:][before[1:] >= sampling.top_p] = 0
    cumulative = np.cumsum(weights)
    index = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    return int(tokens[min(int(index), len(tokens) - 1)])


def best(row: Floats, count: int) -> tuple[Floats, Tokens]:
    """The best of a row that may be chosen at all, best first; ties by the token's number."""
    count = min(count, len(row))
    # everything as good as the last that fits, so that ties do not depend on the partition
    limit = np.partition(row, len(row) - count)[len(row) - count]
    tokens = np.flatnonzero((row >= limit) & (row > -np.inf))
    tokens = tokens[np.argsort(-row[tokens], kind="stable")][:count]
    return row[tokens], tokens.astype(np.int64)


def _log_probability(row: Floats, tokens: Sequence[int]) -> list[TokenLogprob]:
    wide = row.astype(np.float64)
    highest = wide.max()
    total = highest + np.log(np.exp(wide - highest).sum())
    return [TokenLogprob(int(token), float(wide[token] - total)) for token in tokens]


class Sampler:
    """The state of one sequence: its random numbers, what it has said, what it may say."""

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], constraint: Constraint | None = None
    ) -> None:
        self._sampling = sampling
        self._prompt = prompt
        self._constraint = constraint
        self._said: Counter[int] = Counter()
        self._count = 0

    # most requests need few of these, and each takes as long as parsing the request

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
        return np.array(sorted(self._sampling.ends), dtype=np.int64)

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
        row = logits() if sampling.reads_logits or allowed is not None else None
        if row is not None:
            if not np.isfinite(row.max()):
                raise NotANumberError
            values, tokens = best(self._adjusted(row, allowed), CANDIDATES)
            if not len(tokens):
                raise SamplingError("no token may follow")
        # greedy sequences are never to make the generator
        token = (
            int(tokens[0])
            if sampling.temperature == 0
            else choose(values, tokens, sampling, self._generator)
        )
        self._count += 1
        if sampling.penalises:
            self._said[token] += 1
        if self._constraint is not None:
            self._constraint.accept(token)
        if row is None or sampling.logprobs is None:
            return Choice(token)
        (chosen,) = _log_probability(row, [token])
        _values, likeliest = best(row, sampling.logprobs) if sampling.logprobs else ((), ())
        return Choice(token, chosen.logprob, tuple(_log_probability(row, list(likeliest))))

    def _adjusted(self, row: Floats, allowed: npt.NDArray[np.bool_] | None) -> Floats:
        """The row as this sequence sees it."""
        row = row.copy()
        if self._sampling.penalises:
            self._penalise(row)
        biased, biases = self._biases
        row[biased] += biases
        if self._count < self._sampling.min_tokens:
            # others than the graph's never come
            row[self._ends[self._ends < len(row)]] = -np.inf
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
