"""What sampling parameters do and refuse, on the real model.

After what the server tests of vLLM and llama.cpp expect of these parameters.
"""

from __future__ import annotations

import math
from typing import Any

import httpx
import pytest
from support import MODEL, trained

QUESTION, ANSWER = "What is a release?", dict(trained())["What is a release?"]
USER: Any = [{"role": "user", "content": QUESTION}]
CHAT, TEXT = "chat/completions", "completions"


def post(client: httpx.Client, path: str, **body: Any) -> httpx.Response:
    ask: dict[str, Any] = {"messages": USER} if path == CHAT else {"prompt": QUESTION}
    return client.post(f"/v1/{path}", json={"model": MODEL, **ask, **body})


def answer(client: httpx.Client, path: str, **body: Any) -> Any:
    reply = post(client, path, **body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def said(reply: Any) -> list[str]:
    return [choice.get("text", choice.get("message", {}).get("content"))
            for choice in reply["choices"]]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "parameter", "value"),
    [
        (path, parameter, value)
        for path in (CHAT, TEXT)
        for parameter, value in (
            ("temperature", -0.1),
            ("temperature", 2.1),
            ("temperature", "hot"),
            ("top_p", -0.1),
            ("top_p", 1.1),
            ("top_k", -2),
            ("top_k", 1.5),
            ("min_p", -0.1),
            ("min_p", 1.1),
            ("repetition_penalty", 0),
            ("repetition_penalty", -1),
            ("presence_penalty", 2.5),
            ("presence_penalty", -2.5),
            ("frequency_penalty", 2.5),
            ("frequency_penalty", -2.5),
            ("n", 0),
            ("n", -1),
            ("max_tokens", -1),
            ("min_tokens", -1),
            ("seed", 1.5),
            ("seed", 2**64),
            ("stop", [1]),
            ("stop", ""),
            ("logit_bias", {"x": 1}),
            ("logit_bias", {"5": 101}),
            ("logit_bias", {"99999": 1}),
            ("prompt_logprobs", -1),
            ("prompt_logprobs", 21),
        )
    ]
    + [
        (CHAT, "max_tokens", 0),
        (CHAT, "max_completion_tokens", 0),
        (CHAT, "top_logprobs", 21),
        (CHAT, "top_logprobs", -1),
        (TEXT, "logprobs", 21),
        (TEXT, "logprobs", -1),
    ],
)
def test_values_out_of_range_are_refused_by_name(
    client: httpx.Client, path: str, parameter: str, value: object
) -> None:
    more = {"logprobs": True} if parameter == "top_logprobs" else {}
    reply = post(client, path, **{parameter: value}, **more)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert str(error["param"]).startswith(parameter), error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0, "seed": 1},
        {"temperature": 1e-6, "seed": 2},
        {"temperature": 2, "top_k": 1},
        {"temperature": 2, "top_p": 0},
        {"temperature": 2, "top_p": 1e-9},
        {"temperature": 2, "min_p": 1},
        {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0},
        {"temperature": 0, "top_k": -1},
        {"temperature": 0, "top_k": 2**31 - 1},
        {"temperature": 0, "repetition_penalty": 1, "presence_penalty": 0},
        {"temperature": None, "top_p": None, "top_k": None, "min_p": None, "seed": None},
    ],
)
def test_what_leaves_one_token_is_greedy(
    client: httpx.Client, path: str, options: dict[str, Any]
) -> None:
    greedy = said(answer(client, path, temperature=0, max_tokens=12))
    assert said(answer(client, path, max_tokens=12, **options)) == greedy


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 2},
        {"temperature": 2, "top_k": 200},
        {"temperature": 2, "top_p": 0.9},
        {"temperature": 2, "min_p": 0.001},
        {"temperature": 1.5, "presence_penalty": 0.5, "logit_bias": {"60": 1}},
    ],
)
def test_a_seed_repeats_and_another_does_not(client: httpx.Client, options: dict[str, Any]) -> None:
    def draw(seed: int) -> list[str]:
        return said(answer(client, CHAT, seed=seed, max_tokens=16, **options))

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)
    assert draw(-5) == draw(-5)


def test_answers_without_a_seed_differ(client: httpx.Client) -> None:
    drawn = [said(answer(client, CHAT, temperature=2, max_tokens=16))[0] for _time in range(3)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_there_are_as_many_choices_as_asked_for(
    client: httpx.Client, path: str, count: int
) -> None:
    reply = answer(client, path, n=count, temperature=1, max_tokens=3)
    assert [choice["index"] for choice in reply["choices"]] == list(range(count))
    assert reply["usage"]["completion_tokens"] <= 3 * count


@pytest.mark.parametrize("count", [1, 5])
def test_an_answer_of_max_tokens_is_cut(client: httpx.Client, count: int) -> None:
    for path in (CHAT, TEXT):
        reply = answer(client, path, temperature=0, max_tokens=count, ignore_eos=True)
        assert reply["usage"]["completion_tokens"] == count
        assert reply["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("least", [0, 1, 40, 60])
def test_no_end_comes_before_min_tokens(client: httpx.Client, least: int) -> None:
    reply = answer(client, CHAT, temperature=0, min_tokens=least, max_tokens=80)
    assert reply["usage"]["completion_tokens"] >= least
    if least <= 1:
        assert said(reply) == [ANSWER]
    else:
        assert said(reply)[0].startswith(ANSWER)


def test_min_tokens_over_max_tokens_is_refused(client: httpx.Client) -> None:
    for path in (CHAT, TEXT):
        reply = post(client, path, min_tokens=9, max_tokens=8)
        assert reply.status_code == 400
        assert "min_tokens" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (ANSWER[3:6], ANSWER[:3]),
        ([ANSWER[5:9], ANSWER[2:4]], ANSWER[:2]),
        (["\u5b57", "absent"], ANSWER),
        ([], ANSWER),
        (None, ANSWER),
        (ANSWER[0], ""),
        ([ANSWER[-1]], ANSWER[:-1]),
    ],
)
def test_an_answer_ends_before_the_first_stop_string(
    client: httpx.Client, stop: object, expected: str
) -> None:
    if isinstance(stop, str) and stop in expected:
        expected = expected[: expected.index(stop)]
    reply = answer(client, CHAT, temperature=0, stop=stop, max_tokens=100)
    assert said(reply) == [expected]
    assert reply["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("top", [0, 1, 5, 20])
def test_top_logprobs_are_as_many_in_order_and_sum_to_less_than_one(
    client: httpx.Client, top: int
) -> None:
    options = {"temperature": 1, "seed": 3, "max_tokens": 8}
    reply = answer(client, CHAT, logprobs=True, top_logprobs=top, **options)
    for entry in reply["choices"][0]["logprobs"]["content"]:
        values = [best["logprob"] for best in entry["top_logprobs"]]
        assert len(values) == top
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-6
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]
    reply = answer(client, TEXT, logprobs=top, **options)
    listed = reply["choices"][0]["logprobs"]
    assert len({len(column) for column in listed.values()}) == 1
    for token, logprob, best in zip(
        listed["tokens"], listed["token_logprobs"], listed["top_logprobs"], strict=True
    ):
        # the best, and the token itself if it is not among them; texts may be the same
        assert 1 <= len(best) <= top + 1
        assert best[token] >= logprob


def test_logprobs_do_not_depend_on_how_tokens_are_chosen(client: httpx.Client) -> None:
    """They are the model's own, before biases, penalties and temperature."""

    def first(**options: Any) -> Any:
        reply = answer(client, CHAT, logprobs=True, top_logprobs=3, max_tokens=1, **options)
        return reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]

    plain = first(temperature=0)
    assert first(temperature=1.7, seed=1) == plain
    assert first(temperature=0, logit_bias={"60": 100}) == plain
    assert first(temperature=0, repetition_penalty=2, presence_penalty=2) == plain


def test_a_bias_counts_before_penalties(client: httpx.Client) -> None:
    """As in vLLM: a token of the prompt that a bias lifts is penalised for what it has then."""
    options = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 1}
    prompt = {"messages": [{"role": "user", "content": "ZZZ"}]}
    tokens = {chr(number): str(number - 30) for number in range(33, 127)}
    lifted = answer(client, CHAT, logit_bias={tokens["Z"]: 100}, **options, **prompt)
    assert said(lifted) == ["Z"]
    lowered = answer(
        client, CHAT, logit_bias={tokens["Z"]: 100}, repetition_penalty=10, **options, **prompt
    )
    assert said(lowered) != ["Z"]
