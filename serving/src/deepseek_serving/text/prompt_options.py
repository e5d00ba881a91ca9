"""What a request says of its prompt beside the messages, in plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class OptionError(ValueError):
    """The chat template cannot do what a parameter asks for."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True)
class PromptOptions:
    """How a prompt ends, and what the chat template is told.

    `thinks` is whether thoughts are asked for (None: as the template has it) and `thinks_by` the
    parameter that says so.
    """

    variables: Mapping[str, Any] = field(default_factory=dict)
    documents: Sequence[Mapping[str, Any]] | None = None
    thinks: bool | None = None
    thinks_by: str = ""
    effort: str | None = None
    # whether the template begins the assistant's turn, or the last message is gone on with
    begins_reply: bool = True
    continues: bool = False


USUAL = PromptOptions()


def content_of(message: Mapping[str, Any]) -> Iterator[str]:
    """The texts that a message's content has: none, one, or one for each part."""
    content = message.get("content") or ""
    if isinstance(content, str):
        yield content
    else:
        for part in content:
            yield part["text"]
