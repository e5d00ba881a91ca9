"""How tokens are chosen for a request: what it says, and else what the checkpoint does."""

from __future__ import annotations

from typing import TypeVar

from deepseek_serving.generation.request import Options
from deepseek_serving.generation.sampling import Sampling
from deepseek_serving.text.generation_defaults import Defaults

Value = TypeVar("Value")


def _or(value: Value | None, default: Value) -> Value:
    """0 is a value."""
    return default if value is None else value


def end_tokens(options: Options, defaults: Defaults) -> frozenset[int]:
    """What ends an answer."""
    return options.stop_tokens | (frozenset() if options.ignore_eos else defaults.end_tokens)


def sampling(options: Options, defaults: Defaults, choice: int = 0) -> Sampling:
    """`choice` numbers the answers to one request."""
    return Sampling(
        temperature=_or(options.temperature, defaults.temperature),
        top_p=_or(options.top_p, defaults.top_p),
        seed=options.seed,
        top_k=_or(options.top_k, defaults.top_k),
        min_p=_or(options.min_p, defaults.min_p),
        repetition_penalty=_or(options.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        logit_bias=options.logit_bias,
        logprobs=options.logprobs,
        choice=choice,
        min_tokens=options.min_tokens,
        ends=end_tokens(options, defaults),
    )
