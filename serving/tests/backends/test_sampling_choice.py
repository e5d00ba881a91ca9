"""How tokens are chosen: what a request says, and else what the checkpoint does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from deepseek_serving.backends.sampling_choice import sampling
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
