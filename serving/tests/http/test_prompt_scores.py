"""Log probabilities of prompts: what transformers gives, through completions and chat."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import torch
from support import CHECKPOINT, MODEL
from transformers import AutoModelForCausalLM

from deepseek_serving.backends.errors import UnsupportedError
from deepseek_serving.backends.local import MOST_SCORES, check_scores
from deepseek_serving.backends.requests import GenerationRequest
from deepseek_serving.generation.request import Options
from deepseek_serving.text.tokenizer import ChatTokenizer

Rows = npt.NDArray[np.float64]
TEXT = "What is a release? A signed list: \u5b57 and \U0001f600 too."


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer(CHECKPOINT)


@pytest.fixture(scope="module")
def judged() -> Callable[[list[int]], Rows]:
    """Log probabilities [tokens, vocabulary] of what follows each token."""
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    model.eval()

    def rows(tokens: list[int]) -> Rows:
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0].double()
        found: Rows = torch.log_softmax(logits, dim=-1).numpy()
        return found

    return rows


def post(client: httpx.Client, path: str = "completions", **body: Any) -> httpx.Response:
    return client.post(f"/v1/{path}", json={"model": MODEL, **body})


def answer(client: httpx.Client, path: str = "completions", **body: Any) -> Any:
    reply = post(client, path, **body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def check(listed: Any, tokens: list[int], rows: Rows, top: int) -> None:
    assert len(listed["tokens"]) == len(listed["token_logprobs"]) == len(tokens)
    assert listed["token_logprobs"][0] is None
    assert listed["top_logprobs"][0] is None
    for place, token in enumerate(tokens[1:], start=1):
        expected = rows[place - 1]
        assert listed["token_logprobs"][place] == pytest.approx(expected[token], abs=1e-4)
        best = listed["top_logprobs"][place]
        assert 1 <= len(best) <= top + 1
        assert listed["tokens"][place] in best
        if top:
            assert max(best.values()) == pytest.approx(expected.max(), abs=1e-4)


@pytest.mark.parametrize("top", [0, 1, 5, 20])
def test_an_echo_has_the_log_probabilities_of_its_tokens(
    client: httpx.Client, tokenizer: ChatTokenizer, judged: Callable[[list[int]], Rows], top: int
) -> None:
    tokens = tokenizer.encode(TEXT)
    reply = answer(client, prompt=TEXT, echo=True, logprobs=top, max_tokens=0)
    (choice,) = reply["choices"]
    assert choice["text"] == TEXT
    assert choice["finish_reason"] == "length"
    check(choice["logprobs"], tokens, judged(tokens), top)
    assert reply["usage"]["prompt_tokens"] == len(tokens)
    assert reply["usage"]["completion_tokens"] == 0


def test_offsets_are_places_in_the_text(client: httpx.Client) -> None:
    ask: dict[str, Any] = {"prompt": TEXT, "echo": True, "logprobs": 0, "temperature": 0}
    (choice,) = answer(client, max_tokens=4, **ask)["choices"]
    listed = choice["logprobs"]
    offsets = [*listed["text_offset"], len(choice["text"])]
    assert offsets == sorted(offsets)
    assert offsets[0] == 0
    for token, (begin, end) in zip(listed["tokens"], itertools.pairwise(offsets), strict=False):
        if token == "<|im_end|>":
            # not in the text
            assert begin == end
        elif "\ufffd" not in token:
            # what is whole characters stands where it says
            assert choice["text"].startswith(token, begin)
            assert begin + len(token) == end or end == len(choice["text"])
    # a character of several tokens is where each of them is
    assert sum(choice["text"].startswith("\U0001f600", offset) for offset in offsets) > 1


def test_what_is_generated_comes_after_the_prompt(
    client: httpx.Client, tokenizer: ChatTokenizer, judged: Callable[[list[int]], Rows]
) -> None:
    """And is what it is without the echo, since scoring changes nothing else."""
    ask: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "logprobs": 2}
    (plain,) = answer(client, prompt=TEXT, **ask)["choices"]
    (echoed,) = answer(client, prompt=TEXT, echo=True, **ask)["choices"]
    count = len(tokenizer.encode(TEXT))
    assert echoed["text"] == TEXT + plain["text"]
    assert echoed["logprobs"]["tokens"][count:] == plain["logprobs"]["tokens"]
    assert echoed["logprobs"]["token_logprobs"][count:] == pytest.approx(
        plain["logprobs"]["token_logprobs"], abs=1e-4
    )
    assert plain["logprobs"]["text_offset"][0] == 0
    assert echoed["logprobs"]["text_offset"][count] == len(TEXT)


def test_several_prompts_of_tokens_are_scored_together(
    client: httpx.Client, tokenizer: ChatTokenizer, judged: Callable[[list[int]], Rows]
) -> None:
    prompts = [tokenizer.encode(text) for text in ("What is a key?", "A", TEXT)]
    reply = answer(client, prompt=prompts, echo=True, logprobs=1, max_tokens=1, temperature=0)
    for choice, tokens in zip(reply["choices"], prompts, strict=True):
        listed = {name: column[: len(tokens)] for name, column in choice["logprobs"].items()}
        check(listed, tokens, judged(tokens), 1)
        # what ended the answer is among them, so that there is one more in every case
        assert len(choice["logprobs"]["tokens"]) == len(tokens) + 1
        assert choice["text"].startswith(tokenizer.decode(tokens))


def test_the_token_that_ends_an_answer_has_a_log_probability(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "What is a release?"}]
    prompt = ChatTokenizer(CHECKPOINT).text(messages)
    (choice,) = answer(client, prompt=prompt, max_tokens=200, temperature=0, logprobs=0)["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"]["tokens"][-1] == "<|im_end|>"
    assert "".join(choice["logprobs"]["tokens"][:-1]) == choice["text"]


def test_a_stream_begins_with_the_scored_prompt(client: httpx.Client) -> None:
    ask: dict[str, Any] = {
        "prompt": TEXT * 3,
        "echo": True,
        "logprobs": 2,
        "max_tokens": 5,
        "temperature": 0,
    }
    (whole,) = answer(client, **ask)["choices"]
    with client.stream(
        "POST", "/v1/completions", json={"model": MODEL, **ask, "stream": True}
    ) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    for name, column in whole["logprobs"].items():
        parts = [choice["logprobs"][name] for choice in choices if choice["logprobs"]]
        assert list(itertools.chain.from_iterable(parts)) == column
    # in slices, each with its text
    assert sum(bool(choice["logprobs"]) for choice in choices) > 2


@pytest.mark.parametrize("top", [0, 3])
def test_prompt_logprobs_are_vllms(
    client: httpx.Client, tokenizer: ChatTokenizer, judged: Callable[[list[int]], Rows], top: int
) -> None:
    tokens = tokenizer.encode(TEXT)
    rows = judged(tokens)
    (choice,) = answer(client, prompt=TEXT, prompt_logprobs=top, max_tokens=1)["choices"]
    assert choice["logprobs"] is None
    assert not choice["text"].startswith(TEXT)
    entries = choice["prompt_logprobs"]
    assert len(entries) == len(tokens)
    assert entries[0] is None
    for place, token in enumerate(tokens[1:], start=1):
        own = entries[place][str(token)]
        row = rows[place - 1]
        assert own["logprob"] == pytest.approx(row[token], abs=1e-4)
        assert own["rank"] == np.sum(row > row[token]) + 1
        assert isinstance(own["decoded_token"], str)
        ranks = sorted(entry["rank"] for entry in entries[place].values())
        assert ranks == sorted({*range(1, top + 1), own["rank"]})


def test_prompts_of_chats_are_scored_too(
    client: httpx.Client, tokenizer: ChatTokenizer, judged: Callable[[list[int]], Rows]
) -> None:
    messages = [{"role": "user", "content": "What is a release?"}]
    tokens = tokenizer.prompt(messages)
    rows = judged(tokens)
    ask: dict[str, Any] = {"messages": messages, "temperature": 0, "max_tokens": 8}
    scored = answer(client, "chat/completions", prompt_logprobs=1, **ask)
    assert len(scored["prompt_logprobs"]) == len(tokens)
    for place, token in enumerate(tokens[1:], start=1):
        own = scored["prompt_logprobs"][place][str(token)]
        assert own["logprob"] == pytest.approx(rows[place - 1][token], abs=1e-4)
    plain = answer(client, "chat/completions", **ask)
    assert "prompt_logprobs" not in plain
    assert plain["choices"] == scored["choices"]


def test_nothing_is_generated_where_nothing_is_asked_for(client: httpx.Client) -> None:
    reply = answer(client, prompt=TEXT, max_tokens=0)
    assert reply["choices"][0]["text"] == ""
    assert reply["choices"][0]["finish_reason"] == "length"
    reply = answer(client, prompt=TEXT, max_tokens=0, echo=True)
    assert reply["choices"][0] == {
        "index": 0,
        "text": TEXT,
        "logprobs": None,
        "finish_reason": "length",
    }
    assert reply["usage"]["completion_tokens"] == 0


def test_a_prompt_of_one_token_has_nothing_to_score(client: httpx.Client) -> None:
    for most in (0, 1):
        (choice,) = answer(client, prompt=[5], echo=True, logprobs=1, max_tokens=most)["choices"]
        assert choice["logprobs"]["token_logprobs"][0] is None
        assert len(choice["logprobs"]["tokens"]) == 1 + most


def test_a_prompt_that_is_kept_is_scored_all_the_same(client: httpx.Client) -> None:
    """What the cache holds of it has no logits."""
    prompt = list(range(3, 303))
    answer(client, prompt=prompt, max_tokens=1)
    for _again in range(2):
        reply = answer(client, prompt=prompt, echo=True, logprobs=0, max_tokens=0)
        scores = reply["choices"][0]["logprobs"]["token_logprobs"]
        assert len(scores) == len(prompt)
        assert None not in scores[1:]
        assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("completions", {"prompt": "x", "logprobs": 21}, "logprobs"),
        ("completions", {"prompt": "x", "prompt_logprobs": 21}, "prompt_logprobs"),
        ("completions", {"prompt": "x", "prompt_logprobs": -1}, "prompt_logprobs"),
        ("completions", {"prompt": "x", "max_tokens": -1}, "max_tokens"),
        ("chat/completions", {"messages": [], "max_tokens": 0}, None),
    ],
)
def test_what_is_not_scored_is_refused_by_name(
    client: httpx.Client, path: str, body: dict[str, Any], param: str | None
) -> None:
    reply = post(client, path, **body)
    assert reply.status_code == 400, reply.text
    if param is not None:
        assert reply.json()["error"]["param"] == param


def test_what_an_answer_would_hold_is_bounded() -> None:
    """Before any of it is computed."""

    def asked(tokens: int, prompts: int = 1, **options: Any) -> list[GenerationRequest]:
        return [GenerationRequest(range(tokens), Options(**options))] * prompts

    check_scores(asked(MOST_SCORES * 2))
    check_scores(asked(MOST_SCORES // 21, score=20))
    check_scores(asked(MOST_SCORES, score=0))
    for many in (
        asked(MOST_SCORES // 21 + 1, score=20),
        asked(MOST_SCORES // 21, score=20, n=2),
        asked(MOST_SCORES // 21, 2, score=20),
    ):
        with pytest.raises(UnsupportedError, match=f"at most {MOST_SCORES}"):
            check_scores(many)


def test_a_stream_has_no_prompt_logprobs(client: httpx.Client) -> None:
    reply = post(client, prompt="x", prompt_logprobs=1, stream=True)
    assert reply.status_code == 400
    assert "stream" in reply.json()["error"]["message"]
