"""The body of a completion request."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from deepseek_serving.generation.request import Completion, Options
from deepseek_serving.http.schema.accepted import CompletionAccepted
from deepseek_serving.http.schema.body import INTEGER, refused
from deepseek_serving.http.schema.bounds import MOST_CHOICES, AtMost, Texts, texts_of
from deepseek_serving.http.schema.sampled import Sampled


class CompletionRequest(Sampled, CompletionAccepted):
    """The body of POST /v1/completions."""

    prompt: Annotated[Texts, AtMost(MOST_CHOICES)]
    logprobs: Annotated[int, Field(ge=0, le=5), INTEGER] | None = None
    echo: bool | None = None

    @model_validator(mode="after")
    def agrees(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise refused("echo and logprobs exclude each other here", "echo")
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
            usage=self.usage,
        )
