"""How much JSON there is, told from its bytes before any of it is parsed."""

from __future__ import annotations

from dataclasses import dataclass

# Bounds of what is parsed where others wait: it must take milliseconds at most.
MOST_CONTAINERS = 8192
MOST_VALUES = 65_536
# A text of so many quotes would take longer to split than it may, and no context is as long.
MOST_QUOTES = 2**19


@dataclass(frozen=True)
class Shape:
    """Arrays and objects, and values of all kinds; of broken JSON, about that."""

    containers: int
    values: int


def _count(data: bytes) -> Shape:
    containers = data.count(b"{") + data.count(b"[")
    return Shape(containers, containers + data.count(b",") + 1)


def shape(data: bytes, most: Shape) -> Shape | None:
    """No less than what is there; None where there is too much to count it.

    Exact above `most`: within strings nothing counts. Linear in time, with a small factor.
    """
    quick = _count(data)
    if quick.containers <= most.containers and quick.values <= most.values:
        return quick
    if data.count(b'"') > MOST_QUOTES:
        return None
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return _count(b"".join(data.split(b'"')[::2]))


def depth(value: object, most: int) -> int:
    """Arrays and objects inside each other; `most` + 1 stands for more than `most`."""
    level = [value] if isinstance(value, (dict, list)) else []
    found = 0
    while level and found <= most:
        found += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    return found
