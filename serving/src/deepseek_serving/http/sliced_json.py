"""JSON of any length, made in slices: what a slice takes is all that the event loop waits for.

An answer may have log probabilities of a hundred thousand tokens. The objects that stand for them
are made slice by slice, too, and do not outlive theirs.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from fastapi.responses import Response

Item = TypeVar("Item")

# items of a series at a time: 20 log probabilities of each take about a millisecond
SLICE = 32
JSON = "application/json"

# what is written is made for that, and does not hold itself
_encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
).encode


class Series(Generic[Item]):
    """A JSON array of what `form` makes of items, which are gone through once."""

    def __init__(self, items: Iterable[Item], form: Callable[[Item], object]) -> None:
        self._items, self._form = items, form

    def slices(self) -> Iterator[list[object]]:
        items = iter(self._items)
        while part := list(itertools.islice(items, SLICE)):
            yield [self._form(item) for item in part]

    def whole(self) -> list[object]:
        """All of it at once, for what is short."""
        return [part for parts in self.slices() for part in parts]


def has_series(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(has_series, value.values()))
    return isinstance(value, Series) or (isinstance(value, list) and any(map(has_series, value)))


def pieces(value: object) -> Iterator[str]:
    """The JSON of a value that may hold series."""
    if isinstance(value, Series):
        yield "["
        for number, part in enumerate(value.slices()):
            yield ("," if number else "") + _encode(part)[1:-1]
        yield "]"
    elif not has_series(value):
        yield _encode(value)
    elif isinstance(value, dict):
        for number, (name, member) in enumerate(value.items()):
            yield ("," if number else "{") + _encode(name) + ":"
            yield from pieces(member)
        yield "}"
    else:
        assert isinstance(value, list)
        for number, member in enumerate(value):
            yield "," if number else "["
            yield from pieces(member)
        yield "]"


async def json_response(body: Mapping[str, Any]) -> Response:
    """A response with this body; others have their turns while a long one is made."""
    try:
        # nearly all have no series, and looking for one takes as long as writing them
        return Response(_encode(body).encode("utf-8"), media_type=JSON)
    except TypeError:
        made = []
    for piece in pieces(body):
        made.append(piece.encode("utf-8"))
        await asyncio.sleep(0)
    return Response(b"".join(made), media_type=JSON)
