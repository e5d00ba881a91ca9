"""The members of a long JSON object, found without reading their values."""

from __future__ import annotations

import asyncio
import json
import re

# names are the strings that a colon follows; numbers and words are passed over
_MARK = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|[{}\[\]]', re.DOTALL)
# bytes after which others have their turn: they take about a millisecond
TURN = 2**18


async def top_members(data: bytes) -> dict[str, bytes]:
    """The values of an object's members, each as it is written. Raises ValueError if it is none.

    Brackets are counted, and no more is looked at.
    """
    found: dict[str, bytes] = {}
    name, begin, depth, turn, end = "", 0, 0, TURN, 0
    for mark in _MARK.finditer(data):
        sign = data[mark.start() : mark.start() + 1]
        if depth == 0 and (sign != b"{" or end):
            raise ValueError("is no JSON object")
        if sign == b'"':
            if depth == 1 and mark.group(1):
                if begin:
                    found[name] = data[begin : mark.start()].strip().removesuffix(b",").rstrip()
                name, begin = _name(mark.group()), mark.end()
        elif sign in b"{[":
            depth += 1
        else:
            depth -= 1
        if depth == 0:
            end = mark.end()
            if begin:
                found[name] = data[begin : mark.start()].strip()
        if mark.end() >= turn:
            turn = mark.end() + TURN
            await asyncio.sleep(0)
    if not end or data[end:].strip() or data[: data.index(b"{")].strip():
        raise ValueError("is no JSON object")
    return found


def _name(written: bytes) -> str:
    value = json.loads(written.rstrip().removesuffix(b":"))
    assert isinstance(value, str)
    return value
