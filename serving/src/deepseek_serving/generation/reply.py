"""What a reply is made of: thoughts, content, and calls of tools, told apart as the text comes."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepseek_serving.text.tokenizer import StopScanner

THINK, END_THINK = "<think>", "</think>"


@dataclass(frozen=True)
class ToolCall:
    """A call of a function by the model; `arguments` is JSON as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Piece:
    """Some of a reply, as it was told apart."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.calls)

    def __add__(self, other: Piece) -> Piece:
        return Piece(
            self.content + other.content, self.reasoning + other.reasoning, self.calls + other.calls
        )


def _call(name: object, arguments: object) -> ToolCall | None:
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    text = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(f"call_{uuid.uuid4().hex[:24]}", name, text)


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _hermes(body: str) -> list[ToolCall | None]:
    value = _object(body)
    return [_call(value.get("name"), value.get("arguments"))]


def _llama(body: str) -> list[ToolCall | None]:
    value = _object(body)
    return [_call(value.get("name"), value.get("parameters", value.get("arguments")))]


def _mark(*words: str) -> str:
    """A token of DeepSeek's own, with the bars and spaces that they are written with."""
    return "<\uff5c" + "\u2581".join(words) + "\uff5c>"


DEEPSEEK_CALL = re.compile(
    _mark("tool", "call", "begin")
    + f"(?:function{_mark('tool', 'sep')})?([^\n<]+)(?:\n```json\n|{_mark('tool', 'sep')})"
    + r"(.*?)(?:\n```)?"
    + _mark("tool", "call", "end"),
    re.DOTALL,
)


def _deepseek(body: str) -> list[ToolCall | None]:
    found = DEEPSEEK_CALL.findall(body)
    return [_call(name.strip(), _object(text)) for name, text in found] or [None]


@dataclass(frozen=True)
class ToolFormat:
    """How a family of chat templates has its model write calls.

    `begin` and `end` surround them; without an `end` they are all of the reply.
    """

    name: Literal["hermes", "deepseek", "llama"]
    begin: str
    end: str
    parse: Callable[[str], list[ToolCall | None]]
    # templates of this family want earlier calls' arguments as an object, or as its text
    arguments_as_object: bool = True
    # how the arguments are called, where calls can be enforced
    arguments: str | None = None

    def schema(self, function: Mapping[str, Any]) -> dict[str, Any]:
        """What a call of this function must look like."""
        assert self.arguments is not None
        parameters = function.get("parameters") or {"type": "object"}
        return {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, self.arguments: parameters},
            "required": ["name", self.arguments],
            "additionalProperties": False,
        }


HERMES = ToolFormat("hermes", "<tool_call>", "</tool_call>", _hermes, arguments="arguments")
DEEPSEEK = ToolFormat(
    "deepseek",
    _mark("tool", "calls", "begin"),
    _mark("tool", "calls", "end"),
    _deepseek,
    arguments_as_object=False,
)
LLAMA = ToolFormat("llama", "{", "", _llama, arguments="parameters")


def tool_format(template: str) -> ToolFormat | None:
    """The family of a chat template, by the marks that it writes."""
    if HERMES.begin in template:
        return HERMES
    if _mark("tool", "call", "begin") in template:
        return DEEPSEEK
    return LLAMA if "ipython" in template and '"parameters"' in template else None


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


class ToolScanner:
    """Takes calls out of content. What only looks like a call stays content."""

    def __init__(self, form: ToolFormat) -> None:
        self._form = form
        self._before = StopScanner([form.begin])
        self._inside: StopScanner | None = None
        self._body = ""
        self._plain = False

    def push(self, text: str) -> Piece:
        piece = Piece()
        while text:
            if self._inside is None:
                if self._plain:
                    return piece + Piece(text)
                shown = self._before.push(text)
                text = ""
                if not self._form.end and shown.strip():
                    # without an end mark a call is all of the reply, and this one has begun
                    # otherwise
                    self._plain = True
                    rest = self._form.begin + self._before.rest if self._before.stopped else ""
                    return piece + Piece(shown + rest)
                piece += Piece(shown)
                if not self._before.stopped:
                    break
                text = self._before.rest
                self._inside = StopScanner([self._form.end] if self._form.end else [])
                self._body = ""
            self._body += self._inside.push(text)
            text = ""
            if self._inside.stopped:
                text = self._inside.rest
                piece += self._complete(self._body)
                self._inside, self._before = None, StopScanner([self._form.begin])
        return piece

    def _complete(self, body: str) -> Piece:
        form = self._form
        calls = form.parse(body if form.end else form.begin + body)
        if any(call is None for call in calls):
            return Piece(form.begin + body + form.end)
        return Piece(calls=tuple(call for call in calls if call is not None))

    def finish(self) -> Piece:
        if self._inside is None:
            return Piece(self._before.finish())
        body = self._body + self._inside.finish()
        return self._complete(body) if not self._form.end else Piece(self._form.begin + body)


class ReplyParser:
    """The text of one reply, token by token, as pieces.

    Stop strings are looked for in the content alone, not in thoughts.
    """

    def __init__(
        self,
        stops: Sequence[str],
        *,
        thinking: bool | None,
        tools: ToolFormat | None,
        keep_stop: bool = False,
    ) -> None:
        """`thinking` is None for a model that does not think."""
        self._splitter = None if thinking is None else ThinkSplitter(thinking=thinking)
        self._stop = StopScanner(stops, keep=keep_stop)
        self._tools = ToolScanner(tools) if tools else None

    @property
    def thinking(self) -> bool:
        return self._splitter is not None and self._splitter.thinking

    @property
    def stopped(self) -> bool:
        return self._stop.stopped

    def push(self, text: str) -> Piece:
        thought, content = self._splitter.push(text) if self._splitter else ("", text)
        return Piece(reasoning=thought) + self._scan(self._stop.push(content))

    def _scan(self, content: str) -> Piece:
        return self._tools.push(content) if self._tools else Piece(content)

    def finish(self) -> Piece:
        """What was held back, once no more text will come."""
        thought, content = self._splitter.finish() if self._splitter else ("", "")
        shown = self._stop.push(content) + self._stop.finish()
        piece = Piece(reasoning=thought) + self._scan(shown)
        return piece + self._tools.finish() if self._tools else piece
