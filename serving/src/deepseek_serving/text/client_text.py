"""Which characters of a prompt a client has written: text of a client is data.

A chat template puts the texts of a client between marks of its own, and of the string that comes
out, nobody can say any more who wrote `<|im_end|>` in it. So the characters that marks begin and
end with are swapped in the client's texts before a template gets them, each for one that no valid
text has: half a surrogate pair. Whatever a template does with them (joins, cuts, trims, writes as
JSON), they stay where they are, one for one, and are swapped back at the end. A template that looks
for a text (`'</think>' in content`) sees the client's characters as they were.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# The first of the characters that stand for others; there are as many as kinds of edges.
FIRST = 0xDC00
MOST_EDGES = 0x300
# Follows the text which the reply goes on with.
END_OF_TEXT = chr(0xDFFF)
# JSON writes these in another way
NEVER = frozenset('"\\')

SEEING = frozenset(("count", "endswith", "find", "index", "rfind", "rindex", "startswith"))
STRIPPING = frozenset(("lstrip", "removeprefix", "removesuffix", "rstrip", "strip"))
PARTING = frozenset(("partition", "rpartition", "rsplit", "split"))
LOOKING = SEEING | STRIPPING | PARTING | {"replace"}
OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}
# Every value is asked for these; a union would be made for each question, and asking for the class
# of a mapping first costs a tenth of asking whether it is a kind of mapping.
NUMBERS = (bool, int, float)
MAPPINGS = (dict, Mapping)
SERIES = (list, tuple)
BEYOND_ASCII = re.compile("[^\\x00-\\x7f]")


def is_mark(token: str) -> bool:
    """Whether an added token is a mark; some tokenizers have runs of white space as tokens."""
    return bool(token.strip("\u2581 \t\r\n"))


def _edge(character: str) -> bool:
    return not character.isalnum() and not character.isspace() and character not in NEVER


class ClientText:
    """Swaps the characters that a tokenizer's marks begin and end with, and swaps them back."""

    def __init__(self, marks: Iterable[str] = ()) -> None:
        wanted = sorted(filter(is_mark, marks))
        edges = {c for mark in wanted for c in (mark[0], mark[-1]) if _edge(c)}
        # marks that begin and end like words are looked for as a whole
        words = [mark for mark in wanted if not edges & {mark[0], mark[-1]}]
        known = sorted(edges | {mark[0] for mark in words})[:MOST_EDGES]
        self._swapped = {c: chr(FIRST + number) for number, c in enumerate(known)}
        self._originals = {swapped: c for c, swapped in self._swapped.items()}
        whole = [
            (mark, self._swapped[mark[0]] + mark[1:])
            for mark in sorted(words, key=len, reverse=True)
            if mark[0] in self._swapped
        ]
        self._swaps = (*whole, *((c, self._swapped[c]) for c in known if c in edges))

    def mark(self, value: Any) -> Any:
        """A value with the texts in it marked, keys of mappings too."""
        if isinstance(value, str):
            for text, swapped in self._swaps:
                value = value.replace(text, swapped)
            return value
        if value is None or isinstance(value, NUMBERS):
            return value
        if isinstance(value, MAPPINGS):
            return {self.mark(key): self.mark(item) for key, item in value.items()}
        if isinstance(value, SERIES):
            return [self.mark(item) for item in value]
        return value

    def plain(self, text: str) -> str:
        """The text as it was; the same object where nothing is marked."""
        if not text.isascii():
            for swapped, original in self._originals.items():
                text = text.replace(swapped, original)
        return text

    def is_marked(self, character: str) -> bool:
        return character in self._originals

    # --- what templates do with texts that may be marked

    def _seen(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.plain(value)
        return tuple(map(self._seen, value)) if isinstance(value, tuple) else value

    def compare(self, name: str, left: Any, right: Any) -> Any:
        """`==`, `!=`, `in` and `not in`."""
        if isinstance(left, str):
            seen = self.plain(left)
            if isinstance(right, str):
                left, right = seen, self.plain(right)
            elif seen is not left and isinstance(right, list | tuple | dict):
                left, right = seen, [self._seen(item) for item in right]
        return OPERATORS[name](left, right)

    def method(
        self, text: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any] | None:
        """What a method of a text gives that looks for another text; None for all others."""
        if name not in LOOKING:
            return None
        seen, wanted = self.plain(text), [self._seen(value) for value in args]
        named = {key: self._seen(value) for key, value in kwargs.items()}
        if seen is text and all(map(operator.is_, wanted, args)):
            return None
        if name in SEEING:
            return (getattr(seen, name)(*wanted, **named),)
        if name in STRIPPING:
            return (self._stripped(text, seen, name, wanted),)
        if name == "replace":
            return (_replaced(text, seen, wanted[0], *args[1:], **kwargs),)
        return (_parted(text, seen, name, wanted, named),)

    def _stripped(self, text: str, seen: str, name: str, wanted: Sequence[Any]) -> str:
        begin, end = 0, len(text)
        if name in ("strip", "lstrip"):
            begin = len(seen) - len(seen.lstrip(*wanted))
        elif name == "removeprefix":
            begin = len(seen) - len(seen.removeprefix(*wanted))
        if name in ("strip", "rstrip"):
            end = len(seen.rstrip(*wanted))
        elif name == "removesuffix":
            end = len(seen.removesuffix(*wanted))
        return text[begin:end]

    def json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """The filter `tojson` as transformers has it: not escaped for HTML, and with options."""
        text = json.dumps(
            value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
        )
        return BEYOND_ASCII.sub(self._escaped, text) if ensure_ascii else text

    def _escaped(self, found: re.Match[str]) -> str:
        original = self._originals.get(found[0], found[0])
        return found[0] if original.isascii() else json.dumps(original)[1:-1]


def _parted(
    text: str, seen: str, name: str, wanted: Sequence[Any], named: Mapping[str, Any]
) -> list[str] | tuple[str, ...]:
    pieces = getattr(seen, name)(*wanted, **named)
    separator = wanted[0] if wanted else named.get("sep")
    if name in ("split", "rsplit"):
        if separator is None:
            # white space is never marked
            parted: list[str] = getattr(text, name)(*wanted, **named)
            return parted
        return _at_places(text, pieces, len(separator))
    return tuple(_at_places(text, pieces, 0))


def _at_places(text: str, pieces: Iterable[str], between: int) -> list[str]:
    found, place = [], 0
    for piece in pieces:
        found.append(text[place : place + len(piece)])
        place += len(piece) + between
    return found


def _replaced(text: str, seen: str, old: str, new: str, count: int = -1) -> str:
    if not old:
        return text.replace(old, new, count)
    return new.join(_at_places(text, seen.split(old, count), len(old)))
