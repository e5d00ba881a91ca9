"""What is chosen is exact over the whole vocabulary, compared with a plain reference."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.generation.distribution import (
    CANDIDATES,
    LEAST_TEMPERATURE,
    Distribution,
    Floats,
    NotANumberError,
    best,
)
from deepseek_serving.generation.sampling import Sampler, Sampling

# draws are spread evenly, so that the share of a token is off by less than this
DRAWS = 400
ROUNDING = 2e-5


def reference(row: Floats, sampling: Sampling) -> npt.NDArray[np.float64]:
    """The probabilities of all tokens, each step over the whole vocabulary as vLLM does it."""
    scaled = row.astype(np.float64) / sampling.temperature
    order = np.argsort(-scaled, kind="stable")
    weights = np.exp(scaled[order] - scaled.max())
    weights[weights < sampling.min_p] = 0
    if sampling.top_k:
        weights[sampling.top_k :] = 0
    weights /= weights.sum()
    before = np.cumsum(weights) - weights
    weights[1:][before[1:] >= sampling.top_p] = 0
    found = np.zeros(len(row))
    found[order] = weights / weights.sum()
    return found


def shares(row: Floats, sampling: Sampling, *, known: bool) -> npt.NDArray[np.float64]:
    """How much of all draws falls on each token."""
    values, tokens = best(row, CANDIDATES)
    counts = np.zeros(len(row))
    for number in range(DRAWS):
        left = Distribution(
            values, tokens, lambda: row, len(row) if known else None, sampling.temperature
        )
        token = left.choose(
            (number + 0.5) / DRAWS,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )
        counts[token] += 1
    return counts / DRAWS


def logits(seed: int, size: int, spread: float) -> Floats:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k", "min_p"),
    [
        *itertools.product((0.6, 1.0, 2.0), (1.0, 0.95, 0.5), (0,), (0.0,)),
        (1.0, 1.0, 20, 0.0),
        (1.0, 1.0, 64, 0.0),
        (1.0, 1.0, 65, 0.0),
        (1.0, 1.0, 200, 0.0),
        (1.0, 1.0, 10_000, 0.0),
        (1.0, 0.9, 100, 0.0),
        (1.0, 1.0, 0, 0.05),
        (2.0, 1.0, 0, 0.01),
        (2.0, 1.0, 0, 0.2),
        (2.0, 0.8, 0, 0.01),
        (2.0, 0.8, 90, 0.01),
        (1.0, 0.0, 0, 0.0),
        (1.0, 1.0, 0, 1.0),
    ],
)
def test_shares_are_those_of_the_whole_vocabulary(
    temperature: float, top_p: float, top_k: int, min_p: float, known: bool
) -> None:
    sampling = Sampling(temperature, top_p, top_k=top_k, min_p=min_p)
    row = logits(3, 600, 2.0)
    found, expected = shares(row, sampling, known=known), reference(row, sampling)
    assert np.abs(np.cumsum(found) - np.cumsum(expected)).max() < 90 / DRAWS
    assert np.abs(found - expected).max() <= 1 / DRAWS + ROUNDING
    # nothing that may not be chosen is, whatever the draw
    assert not found[expected == 0].any()


@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([1, 5, 63, 64, 65, 300, 2000]),
    spread=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    temperature=st.floats(0.01, 2),
    top_p=st.floats(0, 1),
    top_k=st.sampled_from([0, 0, 1, 40, 64, 65, 500]),
    min_p=st.sampled_from([0.0, 0.0, 0.001, 0.3, 1.0]),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_what_is_read_changes_nothing(
    seed: int,
    size: int,
    spread: float,
    temperature: float,
    top_p: float,
    top_k: int,
    min_p: float,
    draw: float,
) -> None:
    """The same token, allowed by the reference, whether or not the vocabulary's size is known."""
    row = logits(seed, size, spread)
    sampling = Sampling(temperature, top_p, top_k=top_k, min_p=min_p)
    values, tokens = best(row, CANDIDATES)
    expected = reference(row, sampling)

    def chosen(known: int | None, at: float) -> int:
        left = Distribution(values, tokens, lambda: row, known, temperature)
        return left.choose(at, top_k=top_k, top_p=top_p, min_p=min_p)

    token = chosen(None, draw)
    near = {chosen(size, min(max(draw + step, 0), 1 - 1e-12)) for step in (-1e-6, 0, 1e-6)}
    assert token in near
    # at the edge of what is kept, rounding decides
    edge = 1e-6 * float(expected.max())
    assert expected[token] > 0 or np.sum(row > row[token]) <= np.sum(expected > edge)


def test_little_is_read_where_that_suffices() -> None:
    row = logits(5, 5000, 2.0)
    row[:3] += 30
    values, tokens = best(row, CANDIDATES)

    def unread() -> Floats:
        raise AssertionError("the candidates suffice")

    for size, options in (
        (None, {"top_k": 20}),
        (None, {"top_k": 64, "top_p": 0.9}),
        (None, {"min_p": 0.05}),
        # three tokens outweigh whatever may be beyond the candidates
        (len(row), {"top_p": 0.5}),
        (len(row), {"top_p": 0.0}),
        (len(row), {}),
    ):
        left = Distribution(values, tokens, unread, size, 1.0)
        assert left.choose(0.2, **options) in {0, 1, 2}


def test_without_rows_the_candidates_are_all_there_is() -> None:
    row = logits(7, 600, 0.1)
    values, tokens = best(row, CANDIDATES)
    chosen = {
        Distribution(values, tokens, None, None, 1.0).choose(draw) for draw in np.arange(0, 1, 0.01)
    }
    assert chosen <= set(tokens.tolist())


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_row_that_is_no_numbers_is_an_error(wrong: float) -> None:
    row = logits(9, 600, 0.1)
    values, tokens = best(row, CANDIDATES)
    spoiled = row.copy()
    spoiled[599] = wrong
    with pytest.raises(NotANumberError):
        Distribution(values, tokens, lambda: spoiled, None, 1.0).choose(0.99)


def drawn(row: Floats, sampling: Sampling, count: int) -> npt.NDArray[np.float64]:
    """What a sequence says, each time from the same row, in shares."""
    values, tokens = best(row, CANDIDATES)
    sampler = Sampler(sampling, ())
    counts = np.zeros(len(row))
    for _draw in range(count):
        counts[sampler.choose(values, tokens, lambda: row).token] += 1
    return counts / count


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=11),
        Sampling(temperature=0.7, top_p=0.9, seed=12),
        Sampling(temperature=1.5, top_k=100, seed=13),
        Sampling(temperature=2.0, min_p=0.02, seed=14),
    ],
)
def test_many_draws_follow_the_distribution(sampling: Sampling) -> None:
    """Chi-square over the tokens that are expected often enough, with fixed seeds."""
    count = 3000
    row = logits(21, 300, 1.5)
    expected, found = reference(row, sampling) * count, drawn(row, sampling, count) * count
    often = expected >= 5
    rest_expected, rest_found = expected[~often].sum(), found[~often].sum()
    statistic = ((found[often] - expected[often]) ** 2 / expected[often]).sum()
    statistic += (rest_found - rest_expected) ** 2 / max(rest_expected, 1)
    freedom = int(often.sum())
    # six standard deviations of the statistic
    assert statistic < freedom + 6 * np.sqrt(2 * freedom)


def test_a_temperature_below_what_divides_is_greedy() -> None:
    assert Sampling(temperature=LEAST_TEMPERATURE / 2).greedy
    assert Sampling(temperature=0).greedy
    assert not Sampling(temperature=LEAST_TEMPERATURE).greedy


def test_answers_to_one_request_draw_numbers_of_their_own() -> None:
    row = logits(23, 300, 1.0)

    def said(sampling: Sampling) -> list[int]:
        values, tokens = best(row, CANDIDATES)
        sampler = Sampler(sampling, ())
        return [sampler.choose(values, tokens, lambda: row).token for _draw in range(40)]

    first, second = Sampling(seed=7, choice=0), Sampling(seed=7, choice=1)
    assert said(first) == said(first)
    assert said(second) == said(second)
    assert said(first) != said(second)
    # the first is what a request for one answer gets
    assert said(first) == said(Sampling(seed=7))
