"""Sampling over whole rows: penalties, biases, constraints, log probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepseek_serving.generation.distribution import CANDIDATES, Floats, best
from deepseek_serving.generation.sampling import Sampler, Sampling, SamplingError

ROW = np.array([1.0, 3.0, 2.0, -1.0, 0.5], dtype=np.float32)
rows = arrays(
    np.float32, st.integers(1, 200), elements=st.floats(-50, 50, width=32), fill=st.nothing()
)


def unread() -> Floats:
    raise AssertionError("the candidates suffice")


def sampler(prompt: tuple[int, ...] = (), **options: Any) -> Sampler:
    return Sampler(Sampling(**{"temperature": 0, **options}), prompt)


def greedy(made: Sampler, row: Floats = ROW, count: int = 1) -> list[int]:
    values, tokens = best(row, CANDIDATES)
    return [made.choose(values, tokens, lambda: row).token for _choice in range(count)]


@given(row=rows, count=st.integers(1, 70))
def test_the_best_are_those_of_a_full_sort(row: Floats, count: int) -> None:
    values, tokens = best(row, count)
    expected = sorted(range(len(row)), key=lambda token: (-row[token], token))[:count]
    assert tokens.tolist() == expected
    assert values.tolist() == row[expected].tolist()


def test_what_may_not_be_chosen_is_never_among_the_best() -> None:
    row = np.array([-np.inf, 1, -np.inf], dtype=np.float32)
    assert best(row, 3)[1].tolist() == [1]


def test_the_logits_are_read_only_where_they_are_needed() -> None:
    values, tokens = best(ROW, CANDIDATES)
    for made in (sampler(), sampler(temperature=1.0, top_p=0.5, top_k=3, min_p=0.1)):
        assert made.choose(values, tokens, unread).token in range(5)


@pytest.mark.parametrize(
    ("options", "prompt", "expected"),
    [
        ({}, (), [1, 1, 1]),
        ({"presence_penalty": 1.5}, (), [1, 2, 1]),
        ({"frequency_penalty": 0.6}, (), [1, 1, 2]),
        ({"frequency_penalty": 2.0}, (), [1, 2, 0]),
        # the prompt counts for the penalty of repetition, and for no other
        ({"repetition_penalty": 2.0}, (1,), [2, 1, 1]),
        ({"presence_penalty": 1.5}, (1,), [1, 2, 1]),
        ({"logit_bias": {1: -100.0}}, (), [2, 2, 2]),
        ({"logit_bias": {3: 5.0}}, (), [3, 3, 3]),
    ],
)
def test_penalties_and_biases(
    options: dict[str, Any], prompt: tuple[int, ...], expected: list[int]
) -> None:
    assert greedy(sampler(prompt, **options), count=3) == expected


def test_a_bias_reaches_beyond_the_candidates() -> None:
    row = -np.arange(1000, dtype=np.float32)
    assert greedy(sampler(logit_bias={999: 1000.0}), row) == [999]


def test_the_penalty_of_repetition_lowers_negative_values_too() -> None:
    row = np.array([-1.0, -1.5], dtype=np.float32)
    assert greedy(sampler((0,), repetition_penalty=2.0), row) == [1]


@given(row=rows, top=st.integers(0, 20), temperature=st.sampled_from([0.0, 1.0]))
def test_log_probabilities_are_those_of_the_model(
    row: Floats, top: int, temperature: float
) -> None:
    """Before penalties and temperature, and they sum to one."""
    made = sampler(temperature=temperature, seed=1, logprobs=top, presence_penalty=1.0)
    values, tokens = best(row, CANDIDATES)
    choice = made.choose(values, tokens, lambda: row)
    wide = row.astype(np.float64)
    expected = wide - np.log(np.exp(wide).sum())
    assert choice.logprob == pytest.approx(expected[choice.token], abs=1e-6)
    assert [entry.token for entry in choice.top] == best(row, top or 1)[1].tolist()[:top]
    for entry in choice.top:
        assert entry.logprob == pytest.approx(expected[entry.token], abs=1e-6)


class Only:
    """A constraint to some tokens."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens
        self.accepted: list[int] = []
        self.complete = False

    def begin(self, wake: Callable[[], None]) -> None:
        wake()

    def wait(self, seconds: float) -> bool:
        return True

    def allowed(self) -> npt.NDArray[np.bool_]:
        return np.isin(np.arange(len(ROW)), self.tokens)

    def accept(self, token: int) -> None:
        self.accepted.append(token)
        self.complete = True


def test_a_constraint_holds_against_every_bias() -> None:
    constraint = Only(3, 4)
    made = Sampler(Sampling(temperature=0, logit_bias={1: 100.0}), (), constraint)
    assert greedy(made) == [4]
    assert constraint.accepted == [4]
    assert made.complete


def test_a_constraint_that_allows_nothing_is_an_error() -> None:
    with pytest.raises(SamplingError):
        greedy(Sampler(Sampling(), (), Only()))


@given(row=rows, seed=st.integers(0, 2**64 - 1), data=st.data())
def test_some_allowed_token_is_always_chosen(row: Floats, seed: int, data: st.DataObject) -> None:
    options: dict[str, Any] = data.draw(
        st.fixed_dictionaries(
            {
                "temperature": st.floats(0, 2),
                "top_p": st.floats(0, 1),
                "top_k": st.integers(0, 100),
                "min_p": st.floats(0, 1),
                "repetition_penalty": st.floats(0.01, 10),
                "presence_penalty": st.floats(-2, 2),
                "frequency_penalty": st.floats(-2, 2),
                "logit_bias": st.dictionaries(
                    st.integers(0, len(row) - 1), st.floats(-100, 100), max_size=3
                ),
            }
        )
    )
    made = Sampler(Sampling(seed=seed, **options), [0])
    values, tokens = best(row, CANDIDATES)
    for _step in range(4):
        assert 0 <= made.choose(values, tokens, lambda: row).token < len(row)
