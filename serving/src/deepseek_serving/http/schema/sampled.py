"""What chat and completion requests share: how tokens are chosen, and how many."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from typing_extensions import Self

from deepseek_serving.generation.request import Options
from deepseek_serving.http.schema.bounds import MOST_BIASES, MOST_CHOICES, MOST_LOGPROBS, Name

StopString = Annotated[str, Field(min_length=1, max_length=256)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


def _few_biases(value: object) -> object:
    """Before any is looked at: of a dictionary, unlike of a list, every error is collected."""
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        raise ValueError(f"has {len(value)} entries; at most {MOST_BIASES} are accepted")
    return value


def _bias(value: dict[str, float] | None) -> dict[str, float] | None:
    for token, bias in (value or {}).items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise ValueError(f"{token[:32]!r} is not the number of a token")
        if not (math.isfinite(bias) and -100 <= bias <= 100):
            raise ValueError(f"the bias of token {token} is not between -100 and 100")
    return value


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool = False


class Sampled(BaseModel):
    """What chat and completion requests share."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10, allow_inf_nan=False)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[
        dict[str, float] | None,
        Field(max_length=MOST_BIASES),
        BeforeValidator(_few_biases),
        AfterValidator(_bias),
    ] = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    min_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    ignore_eos: bool | None = None
    prompt_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    stop: StopString | Annotated[list[StopString], Field(max_length=4, fail_fast=True)] | None = (
        None
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # no effect on the answer
    user: str | None = None

    @model_validator(mode="after")
    def scores_agree(self) -> Self:
        if self.prompt_logprobs is not None and self.stream:
            raise ValueError("prompt_logprobs and stream exclude each other")
        return self

    def sampling_options(
        self, *, max_tokens: int | None, logprobs: int | None, score: int | None = None
    ) -> Options:
        """`score`: with so many best ones of each, the prompt's tokens get log probabilities."""
        if max_tokens is not None and (self.min_tokens or 0) > max_tokens:
            raise ValueError(f"min_tokens must not be more than max_tokens, which is {max_tokens}")
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Options(
            temperature=self.temperature,
            top_p=self.top_p,
            # numpy wants no negative seeds
            seed=None if self.seed is None else self.seed % 2**64,
            max_tokens=max_tokens,
            stop=stop,
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
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)
