"""What chat and completion requests share: how tokens are chosen, and how many."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from typing_extensions import Self

from deepseek_serving.generation.request import Options, Usage
from deepseek_serving.http.schema.accepted import Accepted
from deepseek_serving.http.schema.body import INTEGER, INTEGERS, Body, only_at, refuse
from deepseek_serving.http.schema.bounds import (
    MOST_BIASES,
    MOST_CHOICES,
    MOST_LOGPROBS,
    MOST_STOPS,
    Count,
    Name,
    TokenId,
)

StopString = Annotated[str, Field(min_length=1, max_length=256)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


def _few_biases(value: object) -> object:
    """Before any is looked at: of a dictionary, unlike of a list, every error is collected."""
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        refuse(f"Invalid '{{path}}': expected at most {MOST_BIASES} entries, but got {len(value)}.")
    return value


def _bias(value: dict[str, float] | None) -> dict[str, float] | None:
    for token, bias in (value or {}).items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            refuse("'{path}': {token} is not the number of a token.", token=repr(token[:32]))
        if not (math.isfinite(bias) and -100 <= bias <= 100):
            refuse("'{path}': the bias of token {token} is not between -100 and 100.", token=token)
    return value


class StreamOptions(Body):
    """Options of a streamed answer."""

    include_usage: bool = False
    # in every event, as it is by then
    continuous_usage_stats: bool = False
    # it hides lengths from those who see the encrypted stream, which nobody here does
    include_obfuscation: Annotated[Any, only_at(False)] = None


class Sampled(Accepted):
    """What chat and completion requests share."""

    model: Name
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_k: Annotated[int, Field(ge=-1, lt=2**31), INTEGER] | None = None
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10, allow_inf_nan=False)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[
        dict[str, float] | None,
        Field(max_length=MOST_BIASES),
        BeforeValidator(_few_biases),
        AfterValidator(_bias),
        WithJsonSchema(
            {
                "anyOf": [
                    {
                        "type": "object",
                        "maxProperties": MOST_BIASES,
                        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
                        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
                    },
                    {"type": "null"},
                ]
            }
        ),
    ] = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), INTEGER] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES), INTEGER] | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31), INTEGER] | None = None
    ignore_eos: bool | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS), INTEGER] | None = None
    stop: (
        StopString
        | Annotated[list[StopString], Field(max_length=MOST_STOPS, fail_fast=True)]
        | None
    ) = None
    include_stop_str_in_output: bool | None = None
    stop_token_ids: (
        Annotated[list[TokenId], Field(max_length=MOST_STOPS, fail_fast=True), INTEGERS] | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def most_tokens(self) -> int | None:
        """Tokens of an answer, as far as the request says."""
        return self.max_tokens

    @model_validator(mode="after")
    def numbers_agree(self) -> Self:
        if self.prompt_logprobs is not None and self.stream:
            refuse("prompt_logprobs and stream exclude each other", "prompt_logprobs")
        most = self.most_tokens
        if most is not None and (self.min_tokens or 0) > most:
            refuse(f"min_tokens must not be more than max_tokens, which is {most}", "min_tokens")
        return self

    def sampling_options(
        self, *, max_tokens: int | None, logprobs: int | None, score: int | None = None
    ) -> Options:
        """`score`: with so many best ones of each, the prompt's tokens get log probabilities."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Options(
            temperature=self.temperature,
            top_p=self.top_p,
            # numpy wants no negative seeds
            seed=None if self.seed is None else self.seed % 2**64,
            max_tokens=max_tokens,
            stop=stop,
            include_stop=bool(self.include_stop_str_in_output),
            stop_tokens=frozenset(self.stop_token_ids or ()),
            # 0 and -1 are both taken for all tokens
            top_k=None if self.top_k is None else max(0, self.top_k),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            logprobs=logprobs,
            score=score,
            min_tokens=self.min_tokens or 0,
            ignore_eos=bool(self.ignore_eos),
            n=self.n or 1,
        )

    @property
    def usage(self) -> Usage:
        options = self.stream_options
        if options is None:
            return "none"
        if options.continuous_usage_stats:
            return "every"
        return "last" if options.include_usage else "none"
