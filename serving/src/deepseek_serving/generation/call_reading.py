"""What a model wrote as calls, read as JSON, and leniently where that is harmless.

Taken besides what JSON allows: raw line breaks and tabs inside strings, a comma before a closing
bracket, several objects or a list of them where one is meant, and arguments as a text that is JSON.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from deepseek_serving.generation.tool_formats import SEPARATOR, ToolFormat

# a text to its end, which may be missing, or a comma that nothing follows
TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*(?:"|\\?\Z))|,(?=\s*[}\]])', re.DOTALL)
BETWEEN = re.compile(r"[\s;,]*")
NAMED = re.compile(
    r'\s*\{\s*"name"\s*:\s*"([^"\\]{1,256})"(?:\s*,\s*"(?:arguments|parameters)"\s*:\s*)?'
)
NAME_FIRST = re.compile(rf"\s*(?:function{SEPARATOR})?([^\n<]{{1,256}})(?:\n```json\n|{SEPARATOR})")


@dataclass(frozen=True)
class ToolCall:
    """A call of a function by the model, or a part of one: those of a call have one `id`.

    `arguments` is JSON as text; of an answer that was cut, as much as there is.
    """

    id: str
    name: str
    arguments: str


def new_call(name: str, arguments: str) -> ToolCall:
    return ToolCall(f"call_{uuid.uuid4().hex[:24]}", name, arguments)


def joined(parts: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    """Each call as one, of its parts."""
    calls: dict[str, list[ToolCall]] = {}
    for part in parts:
        calls.setdefault(part.id, []).append(part)
    return tuple(
        ToolCall(number, some[0].name, "".join(part.arguments for part in some))
        for number, some in calls.items()
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(strict=False, parse_constant=_no_constant)


def _value(text: str, at: int) -> tuple[Any, int] | None:
    """The value that begins there, and where it ends."""
    try:
        return _decoder.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _called(name: object, arguments: object) -> ToolCall | None:
    if isinstance(arguments, str):
        read = _value(arguments, 0) if arguments.strip() else ({}, 0)
        arguments = read[0] if read is not None else None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return new_call(name, json.dumps(arguments, ensure_ascii=False))


def _of_object(form: ToolFormat, value: object) -> ToolCall | None:
    if not isinstance(value, Mapping):
        return None
    # where marks say that it is a call, one without arguments is a call, too
    arguments: object = {} if form.end else None
    for member in form.members:
        if member in value:
            arguments = value[member] or {}
            break
    return _called(value.get("name"), arguments)


def _objects(text: str) -> Iterator[tuple[object, int]]:
    """Values that follow each other, a list's members one by one, and where each ends."""
    at = _after(BETWEEN, text, 0)
    while at < len(text):
        read = _value(text, at)
        if read is None:
            return
        value, end = read
        for part in value if isinstance(value, list) else [value]:
            yield part, end
        at = _after(BETWEEN, text, end)


def _wrapped(form: ToolFormat, body: str) -> list[ToolCall] | None:
    calls, end = [], 0
    for value, end in _objects(body):  # noqa: B007
        call = _of_object(form, value)
        if call is None:
            return None
        calls.append(call)
    return calls if calls and not body[end:].strip(" \n\t\r;,") else None


def _bare(body: str) -> list[ToolCall] | None:
    """A name, and arguments behind it."""
    head = NAME_FIRST.match(body)
    read = _value(body, _after(BETWEEN, body, head.end())) if head else None
    if head is None or read is None:
        return None
    call = _called(head.group(1).strip(), read[0])
    return [call] if call is not None and body[read[1] :].strip() in ("", "```") else None


def read_calls(form: ToolFormat, body: str) -> list[ToolCall] | None:
    """The calls between two marks, all of them; None where it cannot be read."""
    for text in (body, TRAILING_COMMA.sub(lambda found: found[1] or "", body)):
        calls = _wrapped(form, text) if form.members else _bare(text)
        if calls is not None:
            return calls
    return None


def read_cut(form: ToolFormat, body: str) -> list[ToolCall]:
    """The calls of an answer that was cut; the last has its arguments as far as they go."""
    calls: list[ToolCall] = []
    at = 0
    if form.members:
        for value, end in _objects(body):
            call = _of_object(form, value)
            if call is None:
                return calls
            calls.append(call)
            at = end
    at = _after(BETWEEN, body, at)
    head = (NAMED if form.members else NAME_FIRST).match(body, at)
    if head is None:
        return calls
    read = _value(body, head.end())
    arguments = body[head.end() : read[1] if read is not None else None]
    if not arguments.startswith("{"):
        # nothing yet, or a text that is JSON and not whole
        arguments = ""
    return [*calls, new_call(head.group(1).strip(), arguments)]


class HeldCalls:
    """Calls that a grammar holds to its form, which are JSON as they come: their parts, at once."""

    def __init__(self, form: ToolFormat) -> None:
        self._called = form.called()
        self._text = ""
        self._call: ToolCall | None = None
        self._depth, self._in_string, self._escaped = 0, False, False

    def push(self, text: str) -> list[ToolCall]:
        parts = []
        self._text += text
        while self._text:
            if self._call is None:
                found = self._called.search(self._text)
                if found is None:
                    break
                self._call = new_call(found.group(1), "")
                parts.append(self._call)
                self._text = self._text[found.end() :]
                continue
            end = self._end()
            some, self._text = self._text[:end], self._text[end:]
            if some:
                parts.append(ToolCall(self._call.id, self._call.name, some))
            if self._depth == 0:
                self._call = None
        return parts

    def _end(self) -> int:
        """Where the arguments end in what came, or all of it."""
        for place, character in enumerate(self._text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                else:
                    self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
        return len(self._text)
