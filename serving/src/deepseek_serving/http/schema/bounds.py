"""What every body is bounded by, and the types that several of them have."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from deepseek_serving.generation.request import Text

MOST_CHOICES = 16
# as OpenAI has it
MOST_MESSAGES = 2048
MOST_PARTS = 1024
MOST_CALLS = 128
MOST_TEXTS = 2048
MOST_BIASES = 1024
MOST_LOGPROBS = 20
# the largest contexts have as many
MOST_TOKENS = 2**20

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(max_length=256)]
FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
TokenPrompt = Annotated[list[TokenId], Field(min_length=1, max_length=MOST_TOKENS, fail_fast=True)]


def only_at(*accepted: object) -> AfterValidator:
    """For a parameter that is accepted only at values that ask for nothing."""

    def check(value: object) -> object:
        if value is not None and value not in accepted:
            raise ValueError("is not supported by this service")
        return value

    return AfterValidator(check)


def texts_of(given: str | list[int] | list[str] | list[list[int]]) -> list[Text]:
    """Each text by itself; the numbers of tokens as an array, which is handed over cheaply."""
    if isinstance(given, str):
        return [given]
    texts: Sequence[Any] = [given] if isinstance(given[0], int) else given
    return [text if isinstance(text, str) else array("i", text) for text in texts]
