"""Which tokens a model has weights for, from its checkpoint: what an upstream may be asked.

A token beyond the table of a model can end the engine that reads it, and with it the requests of
everybody else. In front of our own engine all prompts are tokens, and are judged by the same rule.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MOST_NAMED = 5


def numbered(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """A tokenizer's tokens by their numbers, as far as its file says so."""
    numbers: dict[int, str] = {}
    model = tokenizer.get("model")
    listed = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(listed, dict):
        numbers = {number: text for text, number in listed.items() if isinstance(number, int)}
    elif isinstance(listed, list):
        numbers = {number: str(entry) for number, entry in enumerate(listed)}
    return numbers | dict(_added(tokenizer))


def _added(tokenizer: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    added = tokenizer.get("added_tokens")
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            yield token["id"], str(token.get("content"))


def unknown(numbers: Collection[int], size: int) -> int | None:
    """One of the numbers that stands for no token of a table of that size; None if all do."""
    highest, lowest = max(numbers, default=0), min(numbers, default=0)
    wrong = highest if highest >= size else lowest
    return None if 0 <= wrong < size else wrong


def is_none(number: int, size: int) -> str:
    """What a client is told of a number that stands for no token."""
    return f"the vocabulary has the tokens 0 to {size - 1}; {number} is none"


@dataclass(frozen=True)
class KnownTokens:
    """The size of a model's table, and texts that stand for tokens beyond it.

    `size` None: the checkpoint does not say, and everything is taken for known.
    """

    size: int | None = None
    beyond: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> KnownTokens:
        """As config.json and tokenizer.json say it."""
        size = _vocab_size(config)
        if size is None:
            return cls()
        return cls.of_added(size, dict(_added(tokenizer)))

    @classmethod
    def of_added(cls, size: int, added: Mapping[int, str]) -> KnownTokens:
        """`added`: the texts that a tokenizer reads as one token each, by their numbers."""
        return cls(size, tuple(sorted(text for number, text in added.items() if number >= size)))

    def wrong_number(self, numbers: Collection[int]) -> str | None:
        """What is wrong with numbers of which one stands for no token."""
        if self.size is None or not numbers:
            return None
        wrong = unknown(numbers, self.size)
        return None if wrong is None else is_none(wrong, self.size)

    def wrong_json(self, text: str) -> str | None:
        """The same of JSON, as it is written without escapes for what is not ASCII."""
        return _said(
            one for one in self.beyond if json.dumps(one, ensure_ascii=False)[1:-1] in text
        )

    def wrong_text(self, text: str) -> str | None:
        """What is wrong with a text that holds that of a token beyond the table."""
        return _said(one for one in self.beyond if one in text)


def _said(beyond: Iterable[str]) -> str | None:
    found = list(beyond)
    if not found:
        return None
    named = ", ".join(map(repr, found[:MOST_NAMED]))
    return f"the text holds {named}, a token which the model has not learned"


def _vocab_size(config: Mapping[str, Any]) -> int | None:
    """Of the language model; those with several parts have it below `text_config`."""
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        size = part.get("vocab_size")
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            return size
    return None
