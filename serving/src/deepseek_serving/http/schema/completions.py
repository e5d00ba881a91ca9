"""The body of a completion request."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from deepseek_serving.generation.request import Completion, Options
from deepseek_serving.http.schema.accepted import CompletionAccepted
from deepseek_serving.http.schema.body import INTEGER, refuse
from deepseek_serving.http.schema.bounds import MOST_CHOICES, MOST_LOGPROBS, AtMost, Texts, texts_of
from deepseek_serving.http.schema.formats import Formatted
from deepseek_serving.http.schema.sampled import Sampled

# as OpenAI has it
DEFAULT_TOKENS = 16


class CompletionRequest(Sampled, CompletionAccepted, Formatted):
    """The body of POST /v1/completions."""

    prompt: Annotated[Texts, AtMost(MOST_CHOICES)]
    # 0: nothing is generated, and with `echo` the prompt comes back, scored with `logprobs`
    max_tokens: Annotated[int, Field(ge=0, lt=2**31), INTEGER] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS), INTEGER] | None = None
    echo: bool | None = None

    @model_validator(mode="after")
    def has_an_answer_for_its_format(self) -> CompletionRequest:
        asked = self.answer_format
        if asked is not None and self.max_tokens == 0:
            refuse(
                "{name} says what the answer must look like, and with max_tokens 0 there is none",
                asked.parameter,
                name=asked.parameter,
            )
        return self

    @property
    def most_tokens(self) -> int:
        return DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens

    def options(self) -> Options:
        echoed = self.logprobs if self.echo else None
        scores = [wanted for wanted in (self.prompt_logprobs, echoed) if wanted is not None]
        return self.sampling_options(
            max_tokens=self.most_tokens,
            logprobs=self.logprobs,
            score=max(scores, default=None),
        )

    def asked(self) -> Completion:
        return Completion(
            model=self.model,
            prompts=texts_of(self.prompt),
            chosen=self.options(),
            answer_format=self.answer_format,
            logprobs=self.logprobs,
            prompt_logprobs=self.prompt_logprobs,
            echo=bool(self.echo),
            stream=bool(self.stream),
            usage=self.usage,
        )
