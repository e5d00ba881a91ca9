"""How tokens are chosen: what a request says, and else what the checkpoint does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from deepseek_serving.backends.sampling_choice import needs_logits, sampling, without_logits
from deepseek_serving.generation.request import Options
from deepseek_serving.generation.sampling import Sampling
from deepseek_serving.http.schema.chat import ChatRequest
from deepseek_serving.text.generation_defaults import Defaults

CHECKPOINT = Defaults(
    frozenset({2}), temperature=0.6, top_p=0.95, top_k=20, min_p=0.05, repetition_penalty=1.05
)


def chosen(defaults: Defaults, **options: object) -> Mapping[str, Any]:
    """How a chat request with these parameters chooses."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **options}
    return vars(sampling(ChatRequest.model_validate(body).options(), defaults))


@pytest.mark.parametrize(
    ("name", "checkpoint", "neutral"),
    [
        ("temperature", 0.6, 0.0),
        ("top_p", 0.95, 0.0),
        ("top_k", 20, 0),
        ("min_p", 0.05, 0.0),
        ("repetition_penalty", 1.05, 1.0),
    ],
)
def test_null_takes_the_checkpoints_value_and_zero_is_a_value(
    name: str, checkpoint: float, neutral: float
) -> None:
    assert chosen(CHECKPOINT)[name] == checkpoint
    assert chosen(CHECKPOINT, **{name: None})[name] == checkpoint
    assert chosen(CHECKPOINT, **{name: neutral})[name] == neutral
    assert chosen(Defaults())[name] == vars(Sampling())[name]


def test_minus_one_keeps_all_tokens_as_in_vllm() -> None:
    assert chosen(CHECKPOINT, top_k=-1)["top_k"] == 0


def test_penalties_of_openai_have_no_default_of_the_checkpoint() -> None:
    found = chosen(CHECKPOINT, presence_penalty=None, frequency_penalty=0)
    assert (found["presence_penalty"], found["frequency_penalty"]) == (0, 0)


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, None),
        ({"top_k": 64, "top_p": 0.9, "min_p": 0.1, "temperature": 2}, None),
        ({"repetition_penalty": 1.0, "presence_penalty": 0, "min_tokens": 0}, None),
        ({"top_k": 65}, "top_k"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"min_tokens": 1}, "min_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
    ],
)
def test_what_candidates_do_not_suffice_for_is_named(
    options: Mapping[str, Any], needed: str | None
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **options}
    assert needs_logits(ChatRequest.model_validate(body).options()) == needed


def test_defaults_that_need_more_than_candidates_are_left_out_where_there_is_no_more() -> None:
    defaults = Defaults(top_k=100, repetition_penalty=1.1, temperature=0.6)
    assert without_logits(defaults) == Defaults(top_k=64, temperature=0.6)
    assert not sampling(Options(), without_logits(defaults), has_logits=False).has_row
