"""Which tokens a model has weights for, from its checkpoint: what an upstream may be asked.

A token beyond the table of a model can end the engine that reads it, and with it the requests of
everybody else. Our own engine has a check of its own, where all prompts are tokens.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
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
        added = sorted(text for number, text in _added(tokenizer) if number >= size)
        return cls(size, tuple(added))

    def wrong_number(self, numbers: Collection[int]) -> str | None:
        """What is wrong with numbers of which one stands for no token."""
        if self.size is None or not numbers:
            return None
        lowest, highest = min(numbers), max(numbers)
        wrong = highest if highest >= self.size else lowest
        if 0 <= wrong < self.size:
            return None
        return f"the vocabulary has the tokens 0 to {self.size - 1}; {wrong} is none"

    def wrong_text(self, text: str) -> str | None:
        """What is wrong with JSON that holds the text of a token beyond the table."""
        found = [one for one in self.beyond if json.dumps(one, ensure_ascii=False)[1:-1] in text]
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
