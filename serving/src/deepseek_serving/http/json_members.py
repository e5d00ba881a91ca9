"""JSON objects whose parts are encoded at different times, each of them once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# made once: json.dumps makes one for every call that asks for other separators
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True)
class Encoded:
    """A value that is JSON already; it may be long."""

    text: str


def encoded_items(values: list[Any]) -> str:
    """The items of an array, without its brackets."""
    return _encode(values)[1:-1]


def encoded_members(values: Mapping[str, Any]) -> str:
    """The members of an object, without its braces; values may hold what is encoded."""
    return "".join(_pieces(values))[1:-1]


def _holds_encoded(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_encoded, value.values()))
    return isinstance(value, Encoded) or (
        isinstance(value, list) and any(map(_holds_encoded, value))
    )


def _pieces(value: object) -> Iterator[str]:
    if isinstance(value, Encoded):
        yield value.text
    elif not _holds_encoded(value):
        yield _encode(value)
    elif isinstance(value, Mapping):
        yield from _surrounded("{", ((f"{_encode(n)}:", m) for n, m in value.items()), "}")
    else:
        assert isinstance(value, list)
        yield from _surrounded("[", (("", item) for item in value), "]")


def _surrounded(begin: str, parts: Iterable[tuple[str, object]], end: str) -> Iterator[str]:
    for name, value in parts:
        yield begin + name
        yield from _pieces(value)
        begin = ","
    yield end
