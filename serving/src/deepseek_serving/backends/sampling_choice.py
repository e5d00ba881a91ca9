"""How tokens are chosen for a request: what it says, and else what the checkpoint does."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from deepseek_serving.generation.distribution import CANDIDATES
from deepseek_serving.generation.request import Options
from deepseek_serving.generation.sampling import Sampling
from deepseek_serving.text.generation_defaults import Defaults

Value = TypeVar("Value")


def _or(value: Value | None, default: Value) -> Value:
    """0 is a value."""
    return default if value is None else value


def without_logits(defaults: Defaults) -> Defaults:
    """What of them an engine can do that has the best candidates alone."""
    return replace(defaults, repetition_penalty=1.0, top_k=min(defaults.top_k, CANDIDATES))


def needs_logits(options: Options) -> str | None:
    """The parameter for which the best candidates alone do not suffice, if there is one."""
    needed = {
        "logit_bias": bool(options.logit_bias),
        "repetition_penalty": options.repetition_penalty not in (None, 1),
        "presence_penalty": options.presence_penalty != 0,
        "frequency_penalty": options.frequency_penalty != 0,
        "logprobs": options.logprobs is not None,
        "prompt_logprobs": options.score is not None,
        "min_tokens": options.min_tokens > 0,
        "top_k": options.top_k is not None and options.top_k > CANDIDATES,
    }
    return next((name for name, asked in needed.items() if asked), None)


def end_tokens(options: Options, defaults: Defaults) -> frozenset[int]:
    """What ends an answer."""
    return options.stop_tokens | (frozenset() if options.ignore_eos else defaults.end_tokens)


def sampling(
    options: Options, defaults: Defaults, choice: int = 0, *, has_logits: bool = True
) -> Sampling:
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
        min_tokens=options.min_tokens,
        end_tokens=end_tokens(options, defaults),
        choice=choice,
        has_row=has_logits,
    )
