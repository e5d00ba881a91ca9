"""The output of a response while it is made: what a chat answer says, as items and events.

Both ways to an answer speak in chat completions, an engine of our own and an upstream, so that
their deltas are what is read here. A response in one piece is made by the same steps as a streamed
one, and cannot differ from it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepseek_serving.http.json_members import Encoded, encoded_items
from deepseek_serving.http.returned_thoughts import encoded

# with its `type`; what all events of a stream have is added where they are written
Event = dict[str, Any]
Status = Literal["completed", "incomplete"]


class MalformedAnswerError(ValueError):
    """An answer says what cannot be told: a call without a name, or one that goes on too late."""


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


@dataclass(frozen=True)
class _TextKind:
    """What sets messages apart from thoughts."""

    prefix: str
    # of its only part
    part: Mapping[str, Any]
    item: Mapping[str, Any]
    # events of messages tell of the tokens' probabilities, too
    has_tokens: bool

    @property
    def event(self) -> str:
        return f"response.{self.part['type']}"


MESSAGE = _TextKind(
    "msg",
    {"type": "output_text", "annotations": []},
    {"type": "message", "role": "assistant"},
    has_tokens=True,
)
THOUGHT = _TextKind(
    "rs",
    {"type": "reasoning_text"},
    {"type": "reasoning", "summary": [], "encrypted_content": None},
    has_tokens=False,
)


class _Text:
    """A message or a thought, with one part of text; `encodes`: which is encoded, too."""

    def __init__(self, kind: _TextKind, index: int, *, encodes: bool) -> None:
        self.kind = kind
        self._encodes = encodes
        self._index = index
        self._id = _new_id(kind.prefix)
        self._texts: list[str] = []
        # encoded once: several events tell of them, and they may be much longer than the text
        self._tokens: list[str] = []

    def _item(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {"id": self._id, **self.kind.item, "status": status, "content": content}

    def _with_tokens(self, members: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
        shown = {"logprobs": Encoded(f"[{','.join(tokens)}]")} if self.kind.has_tokens else {}
        return {**members, **shown}

    def _of_part(self, kind: str, members: Mapping[str, Any]) -> Event:
        place = {"item_id": self._id, "output_index": self._index, "content_index": 0}
        return {"type": kind, **place, **members}

    def begin(self) -> Iterator[Event]:
        yield _added(self._index, self._item("in_progress", []))
        part = self._with_tokens({**self.kind.part, "text": ""}, ())
        yield self._of_part("response.content_part.added", {"part": part})

    def push(self, text: str, tokens: Sequence[Any]) -> Iterator[Event]:
        self._texts.append(text)
        shown = [encoded_items(list(tokens))] if tokens else []
        self._tokens += shown
        yield self._of_part(f"{self.kind.event}.delta", self._with_tokens({"delta": text}, shown))

    def end(self, status: Status) -> Iterator[Event]:
        """The last of these events has the item."""
        text = "".join(self._texts)
        said = self._with_tokens({"text": text}, self._tokens)
        part = {**self.kind.part, **said}
        yield self._of_part(f"{self.kind.event}.done", said)
        yield self._of_part("response.content_part.done", {"part": part})
        more = {"encrypted_content": encoded(text)} if self._encodes else {}
        yield _done(self._index, {**self._item(status, [part]), **more})


class _Call:
    """A call of a function."""

    def __init__(self, number: int, call: Mapping[str, Any], index: int) -> None:
        self.number = number
        self._index = index
        self._id = _new_id("fc")
        self._call_id = call.get("id") or _new_id("call")
        self._name = call["function"].get("name")
        if not self._name:
            raise MalformedAnswerError(f"call {number} has no name")
        self._arguments: list[str] = []

    def _item(self, status: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "function_call",
            "status": status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._arguments),
        }

    def _of_arguments(self, step: str, **members: str) -> Event:
        kind = f"response.function_call_arguments.{step}"
        return {"type": kind, "item_id": self._id, "output_index": self._index, **members}

    def begin(self) -> Iterator[Event]:
        yield _added(self._index, self._item("in_progress"))

    def push(self, arguments: str) -> Iterator[Event]:
        self._arguments.append(arguments)
        yield self._of_arguments("delta", delta=arguments)

    def end(self, status: Status) -> Iterator[Event]:
        """The last of these events has the item."""
        arguments = "".join(self._arguments)
        yield self._of_arguments("done", arguments=arguments, name=self._name)
        yield _done(self._index, self._item(status))


def _added(index: int, item: Mapping[str, Any]) -> Event:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def _done(index: int, item: Mapping[str, Any]) -> Event:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


class Output:
    """The items of one response: each step gives the events that tell of it.

    White space alone is no message: it parts thoughts and calls from each other. It is kept until
    it is known what follows it.
    """

    def __init__(self, *, encodes_thoughts: bool = False) -> None:
        self._encodes_thoughts = encodes_thoughts
        self.items: list[dict[str, Any]] = []
        self._open: _Text | _Call | None = None
        self._calls = 0
        self._has_message = False
        self._blank = ""
        self._blank_tokens: list[Any] = []

    def push(
        self, delta: Mapping[str, Any], logprobs: Mapping[str, Any] | None = None
    ) -> Iterator[Event]:
        """A chat answer's delta, or its message. Raises MalformedAnswerError."""
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            yield from self._text(THOUGHT, thought, ())
        if delta.get("content"):
            yield from self._content(delta["content"], (logprobs or {}).get("content") or ())
        for number, call in enumerate(delta.get("tool_calls") or ()):
            yield from self._call(call.get("index", number), call)

    def _content(self, text: str, tokens: Sequence[Any]) -> Iterator[Event]:
        is_open = isinstance(self._open, _Text) and self._open.kind is MESSAGE
        if not is_open and not text.strip():
            self._blank += text
            self._blank_tokens += tokens
            return
        text, tokens = self._blank + text, [*self._blank_tokens, *tokens]
        yield from self._text(MESSAGE, text, tokens)

    def _text(self, kind: _TextKind, text: str, tokens: Sequence[Any]) -> Iterator[Event]:
        if not isinstance(self._open, _Text) or self._open.kind is not kind:
            encodes = self._encodes_thoughts and kind is THOUGHT
            yield from self._begin(_Text(kind, self._next_index, encodes=encodes))
        assert isinstance(self._open, _Text)
        yield from self._open.push(text, tokens)

    def _call(self, number: int, call: Mapping[str, Any]) -> Iterator[Event]:
        if number >= self._calls:
            self._calls = number + 1
            yield from self._begin(_Call(number, call, self._next_index))
        elif not isinstance(self._open, _Call) or self._open.number != number:
            raise MalformedAnswerError(f"call {number} goes on after another one has begun")
        assert isinstance(self._open, _Call)
        arguments = call["function"].get("arguments")
        if arguments:
            yield from self._open.push(arguments)

    @property
    def _next_index(self) -> int:
        return len(self.items) + (self._open is not None)

    def _begin(self, item: _Text | _Call) -> Iterator[Event]:
        yield from self._close("completed")
        self._blank, self._blank_tokens = "", []
        self._open = item
        self._has_message |= isinstance(item, _Text) and item.kind is MESSAGE
        yield from item.begin()

    def _close(self, status: Status) -> Iterator[Event]:
        if self._open is not None:
            item, self._open = self._open, None
            events = list(item.end(status))
            yield from events
            self.items.append(events[-1]["item"])

    def end(self, status: Status) -> Iterator[Event]:
        """What is open ends with the status; an answer that is complete has a message or a call."""
        is_answer = self._has_message or self._calls
        if not is_answer and (self._blank or status == "completed"):
            yield from self._text(MESSAGE, self._blank, self._blank_tokens)
        yield from self._close(status)
