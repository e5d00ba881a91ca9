"""The members of a long JSON object, found without reading their values."""

from __future__ import annotations

import asyncio
import json
import re

# one set of characters: much faster to look for than alternatives
_MARK, _IN_TEXT = re.compile(rb'["{}\[\]]'), re.compile(rb'["\\]')
_COLON = re.compile(rb"\s*:")
# bytes after which others have their turn: they take about two milliseconds, and a step as long as
# so many bytes
TURN, STEP = 2**17, 32


async def top_members(data: bytes) -> dict[str, bytes]:
    """The values of an object's members, each as it is written. Raises ValueError if it is none.

    Brackets are counted, and no more is looked at.
    """
    found: dict[str, bytes] = {}
    name, begin, depth, place, turn = "", 0, 0, 0, TURN
    # where the text began that is gone through, if one is
    text: int | None = None
    while mark := (_MARK if text is None else _IN_TEXT).search(data, place):
        turn -= mark.end() - place + STEP
        sign, place = mark.group(), mark.end()
        if depth == 0 and (sign != b"{" or data[: mark.start()].strip()):
            raise ValueError("is no JSON object")
        if sign == b"\\":
            place += 1
        elif sign != b'"':
            depth += 1 if sign in b"{[" else -1
        elif text is None:
            text = mark.start()
        else:
            if depth == 1 and (colon := _COLON.match(data, place)):
                if begin:
                    found[name] = data[begin:text].strip().removesuffix(b",").rstrip()
                name, begin = str(json.loads(data[text:place])), colon.end()
            text = None
        if depth == 0:
            if begin:
                found[name] = data[begin : mark.start()].strip()
            break
        if turn < 0:
            turn = TURN
            await asyncio.sleep(0)
    if depth or text is not None or not place or data[place:].strip():
        raise ValueError("is no JSON object")
    return found
