"""A queue in which the keys take turns, however much each of them has waiting."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """First come, first served within a key; round robin among the keys that have items."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Item]:
        for line in self._lines.values():
            yield from line

    def waiting(self, key: str) -> int:
        return len(self._lines.get(key, ()))

    def push(self, key: str, item: Item) -> None:
        self._lines.setdefault(key, deque()).append(item)
        self._size += 1

    def pop(self) -> tuple[str, Item]:
        """The first item of the key whose turn it is; that key goes to the end."""
        key, line = next(iter(self._lines.items()))
        item = line.popleft()
        self._size -= 1
        if line:
            self._lines.move_to_end(key)
        else:
            del self._lines[key]
        return key, item

    def remove(self, unwanted: Callable[[Item], bool]) -> list[Item]:
        """Take out what is unwanted, and give it back."""
        removed: list[Item] = []
        for key, line in list(self._lines.items()):
            kept: deque[Item] = deque()
            for item in line:
                (removed if unwanted(item) else kept).append(item)
            if kept:
                self._lines[key] = kept
            else:
                del self._lines[key]
        self._size -= len(removed)
        return removed
