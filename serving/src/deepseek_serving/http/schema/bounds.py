"""What every body is bounded by, and the types that several of them have."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Field, GetCoreSchemaHandler, Tag
from pydantic_core import core_schema

from deepseek_serving.generation.request import Text
from deepseek_serving.http.schema.body import INTEGER, INTEGERS

MOST_CHOICES = 16
# each is looked for in every piece of an answer
MOST_STOPS = 16
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
Count = Annotated[int, Field(ge=1, lt=2**31), INTEGER]
Name = Annotated[str, Field(max_length=256)]
FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
TokenPrompt = Annotated[
    list[TokenId], Field(min_length=1, max_length=MOST_TOKENS, fail_fast=True), INTEGERS
]

# a text, its tokens, or several of either
Texts: TypeAlias = "str | list[int] | list[str] | list[list[int]]"


def _form(given: object) -> str | None:
    """Which of the forms of a prompt this begins as; None if it is none."""
    if isinstance(given, str):
        return "text"
    if not isinstance(given, list):
        return None
    first = given[0] if given else None
    if isinstance(first, list):
        return "token_lists"
    return "tokens" if isinstance(first, (int, float)) else "texts"


@dataclass(frozen=True)
class AtMost:
    """For Annotated[Texts, AtMost(3)]; it says what is wrong with the form that was chosen."""

    texts: int

    def __get_pydantic_core_schema__(
        self, _source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        several = Field(min_length=1, max_length=self.texts, fail_fast=True)
        return handler.generate_schema(
            Annotated[
                Annotated[str, Tag("text")]
                | Annotated[TokenPrompt, Tag("tokens")]
                | Annotated[list[str], several, Tag("texts")]
                | Annotated[list[TokenPrompt], several, Tag("token_lists")],
                Discriminator(
                    _form,
                    custom_error_type="refused",
                    custom_error_message="refused",
                    custom_error_context={
                        "message": "Invalid type for '{path}': expected a string, an array of "
                        "strings, the numbers of tokens, or an array of those.",
                        "param": "",
                        "code": "invalid_value",
                    },
                ),
            ]
        )


def texts_of(given: Texts) -> list[Text]:
    """Each text by itself; the numbers of tokens as an array, which is handed over cheaply."""
    if isinstance(given, str):
        return [given]
    texts: Sequence[Any] = [given] if isinstance(given[0], int) else given
    return [text if isinstance(text, str) else array("i", text) for text in texts]
