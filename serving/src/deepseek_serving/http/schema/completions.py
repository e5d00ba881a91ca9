"""The body of a completion request."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from deepseek_serving.generation.request import Completion, Options
from deepseek_serving.http.schema.bounds import (
    MOST_CHOICES,
    MOST_LOGPROBS,
    TokenPrompt,
    only_at,
    texts_of,
)
from deepseek_serving.http.schema.sampled import Sampled

# as OpenAI has it
DEFAULT_TOKENS = 16


class CompletionRequest(Sampled):
    """The body of POST /v1/completions."""

    prompt: (
        str
        | TokenPrompt
        | Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True)]
        | Annotated[list[TokenPrompt], Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True)]
    )
    # 0: nothing is generated, and with `echo` the prompt comes back, scored with `logprobs`
    max_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    echo: bool | None = None

    # would change the answer if they were heeded
    suffix: Annotated[Any, only_at("")] = None
    best_of: Annotated[Any, only_at(1)] = None

    @model_validator(mode="after")
    def agrees(self) -> CompletionRequest:
        self.options()
        return self

    def options(self) -> Options:
        echoed = self.logprobs if self.echo else None
        scores = [wanted for wanted in (self.prompt_logprobs, echoed) if wanted is not None]
        return self.sampling_options(
            max_tokens=DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens,
            logprobs=self.logprobs,
            score=max(scores, default=None),
        )

    def asked(self) -> Completion:
        return Completion(
            model=self.model,
            prompts=texts_of(self.prompt),
            chosen=self.options(),
            logprobs=self.logprobs,
            prompt_logprobs=self.prompt_logprobs,
            echo=bool(self.echo),
            stream=bool(self.stream),
            include_usage=self.include_usage,
        )
