"""What a reply is made of: thoughts, content, and calls of tools, told apart as the text comes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from deepseek_serving.generation.call_reading import ToolCall, joined
from deepseek_serving.generation.call_scanner import CallScanner, ExpectedCalls
from deepseek_serving.text.tokenizer import StopScanner

THINK, END_THINK = "<think>", "</think>"


@dataclass(frozen=True)
class Piece:
    """Some of a reply, as it was told apart; of a call it may have the next part alone."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.calls)

    def __add__(self, other: Piece) -> Piece:
        return Piece(
            self.content + other.content,
            self.reasoning + other.reasoning,
            joined(self.calls + other.calls),
        )

    @classmethod
    def whole(cls, pieces: Iterable[Piece]) -> Piece:
        """All of a reply, of its pieces."""
        pieces = list(pieces)
        return cls(
            "".join(piece.content for piece in pieces),
            "".join(piece.reasoning for piece in pieces),
            joined(call for piece in pieces for call in piece.calls),
        )


class ThinkSplitter:
    """Tells thoughts from content; `thinking`: the prompt has begun them."""

    def __init__(self, *, thinking: bool) -> None:
        self._state: Literal["start", "thinking", "after", "content"] = (
            "thinking" if thinking else "start"
        )
        self._held = ""
        self._end = StopScanner([END_THINK])

    @property
    def thinking(self) -> bool:
        return self._state == "thinking"

    def push(self, text: str) -> tuple[str, str]:
        """Thoughts and content that may be shown now."""
        if self._state == "start":
            self._held += text
            begun = self._held.lstrip()
            if THINK.startswith(begun) and begun != THINK:
                return "", ""
            text, self._held = self._held, ""
            if not begun.startswith(THINK):
                self._state = "content"
                return "", text
            self._state = "thinking"
            text = begun.removeprefix(THINK)
        if self._state == "thinking":
            thought = self._end.push(text)
            if not self._end.stopped:
                return thought, ""
            self._state = "after"
            return thought, self._after(self._end.rest)
        return "", self._after(text)

    def _after(self, text: str) -> str:
        """Content without the empty lines that part it from the thoughts."""
        if self._state == "after":
            text = text.lstrip("\n")
            if text:
                self._state = "content"
        return text

    def finish(self) -> tuple[str, str]:
        """What was held back, once no more text will come."""
        held, self._held = self._held, ""
        return (self._end.finish(), "") if self._state == "thinking" else ("", held)


class ReplyParser:
    """The text of one reply, token by token, as pieces.

    Stop strings are looked for in the content alone, not in thoughts.
    """

    def __init__(
        self,
        stops: Sequence[str],
        *,
        thinking: bool | None,
        tools: ExpectedCalls | None,
        keep_stop: bool = False,
    ) -> None:
        """`thinking` is None for a model that does not think."""
        self._splitter = None if thinking is None else ThinkSplitter(thinking=thinking)
        self._stop = StopScanner(stops, keep=keep_stop)
        self._calls = CallScanner(tools) if tools else None

    @property
    def thinking(self) -> bool:
        return self._splitter is not None and self._splitter.thinking

    @property
    def stopped(self) -> bool:
        """Whether nothing that may come now belongs to the reply."""
        return self._stop.stopped or (self._calls is not None and self._calls.done)

    def push(self, text: str) -> Piece:
        thought, content = self._splitter.push(text) if self._splitter else ("", text)
        return self._scan(thought, self._stop.push(content))

    def _scan(self, thought: str, content: str) -> Piece:
        if self._calls is None:
            return Piece(content, thought)
        shown, calls = self._calls.push(content)
        return Piece(shown, thought, joined(calls))

    def finish(self, *, cut: bool = False) -> Piece:
        """What was held back, once no more text will come; `cut`: it would have gone on."""
        thought, content = self._splitter.finish() if self._splitter else ("", "")
        piece = self._scan(thought, self._stop.push(content) + self._stop.finish())
        if self._calls is None:
            return piece
        shown, calls = self._calls.finish(cut=cut)
        return piece + Piece(shown, calls=tuple(calls))
