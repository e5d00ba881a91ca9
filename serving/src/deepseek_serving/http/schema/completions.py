"""The body of a completion request."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from deepseek_serving.generation.request import Completion, Options
from deepseek_serving.http.schema.bounds import MOST_CHOICES, TokenPrompt, only_at, texts_of
from deepseek_serving.http.schema.sampled import Sampled


class CompletionRequest(Sampled):
    """The body of POST /v1/completions."""

    prompt: (
        str
        | TokenPrompt
        | Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True)]
        | Annotated[list[TokenPrompt], Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True)]
    )
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool | None = None

    # would change the answer if they were heeded
    suffix: Annotated[Any, only_at("")] = None
    best_of: Annotated[Any, only_at(1)] = None

    @model_validator(mode="after")
    def agrees(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo and logprobs exclude each other here")
        return self

    def options(self) -> Options:
        return self.sampling_options(max_tokens=self.max_tokens or 16, logprobs=self.logprobs)

    def asked(self) -> Completion:
        return Completion(
            model=self.model,
            prompts=texts_of(self.prompt),
            chosen=self.options(),
            logprobs=self.logprobs,
            echo=bool(self.echo),
            stream=bool(self.stream),
            include_usage=self.include_usage,
        )
