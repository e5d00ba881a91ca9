"""Tells calls of tools from the content of a reply, as its text comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deepseek_serving.generation.call_reading import (
    HeldCalls,
    ToolCall,
    read_calls,
    read_cut,
)
from deepseek_serving.generation.tool_formats import ToolFormat
from deepseek_serving.text.tokenizer import StopScanner


@dataclass(frozen=True)
class ExpectedCalls:
    """Calls that a reply may have.

    `names` are those of the functions that there are. `held`: a grammar holds the reply to calls,
    so that their arguments may be shown as they come. `single`: the reply ends with its first one.
    """

    form: ToolFormat
    names: frozenset[str] = frozenset()
    held: bool = False
    single: bool = False


class _Body:
    """Text up to an end mark that stands in no string."""

    def __init__(self, end: str) -> None:
        self._mark = end
        self.text = ""
        self._seen = 0
        self._in_string = False
        # the first mark that stands in what may be a string, or in one that is not closed
        self._doubtful: int | None = None
        self.end: int | None = None

    def push(self, text: str) -> bool:
        """Whether the end has come; what is known to belong to it is `known`."""
        self.text += text
        if not self._mark:
            self._seen = len(self.text)
            return False
        while self._seen < len(self.text):
            place, character = self._seen, self.text[self._seen]
            if character == self._mark[0] and not self._pass_mark(place):
                return self.end is not None
            if self._in_string and character == "\\":
                if place + 1 == len(self.text):
                    return False
                self._seen += 1
            elif character == '"':
                self._in_string = not self._in_string
            self._seen += 1
        return False

    def _pass_mark(self, place: int) -> bool:
        """Whether this is no end mark; not if it may become one."""
        begun = self.text[place : place + len(self._mark)]
        if not self._mark.startswith(begun):
            return True
        if len(begun) < len(self._mark):
            return False
        if self._in_string:
            self._doubtful = place if self._doubtful is None else self._doubtful
            return True
        self.end = place
        return False

    @property
    def known(self) -> int:
        return self._seen if self.end is None else self.end

    def give_up(self) -> bool:
        """Take the mark that was passed over for the end, if there is one."""
        self.end = self._doubtful
        return self.end is not None


class CallScanner:
    """Takes calls out of content. What only looks like a call stays content."""

    def __init__(self, expected: ExpectedCalls) -> None:
        self._expected = expected
        self._form = expected.form
        self._state: Literal["text", "between", "inside", "plain", "done"] = "text"
        self._before = StopScanner([self._form.opens])
        self._text = ""
        self._body = _Body(self._form.end)
        self._held = HeldCalls(self._form) if expected.held else None
        self._shown = 0
        # of the marks around calls, as long as none of these could be read
        self._raw = ""
        self._called = False
        # white space behind a call, which belongs to no content unless some follows
        self._blank = ""

    @property
    def done(self) -> bool:
        """Whether the reply has all the calls that it may have."""
        return self._state == "done"

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """Content and calls, or parts of them, that may be shown now."""
        self._text += text
        content, calls = "", []
        while self._text and not self.done:
            before = self._state
            shown, found = self._step()
            content += self._content(shown)
            calls += found
            if self._state == before and not shown and not found:
                break
        return content, calls

    def _content(self, shown: str) -> str:
        if not self._called:
            return shown
        self._blank += shown
        if not self._blank.strip():
            return ""
        shown, self._blank = self._blank, ""
        self._called = False
        return shown

    def _step(self) -> tuple[str, list[ToolCall]]:
        if self._state == "text":
            return self._step_text(), []
        if self._state == "between":
            return self._step_between(), []
        if self._state == "inside":
            return self._step_inside()
        text, self._text = self._text, ""
        return text, []

    def _step_text(self) -> str:
        form = self._form
        shown, self._text = self._before.push(self._text), ""
        if not form.end and shown.strip() not in ("", form.preface):
            # without an end mark calls are all of the reply, and this one has begun otherwise
            self._state = "plain"
            return shown + (form.begin + self._before.rest if self._before.stopped else "")
        if self._before.stopped:
            self._text, self._before = self._before.rest, StopScanner([form.opens])
            self._raw = form.opens
            if form.outer[0]:
                self._state = "between"
            else:
                self._enter()
        return shown

    def _enter(self) -> None:
        self._state, self._body, self._shown = "inside", _Body(self._form.end), 0

    def _step_between(self) -> str:
        form, rest = self._form, self._text.lstrip()
        for mark in (form.begin, form.outer[1]):
            if rest.startswith(mark):
                self._raw += self._text[: len(self._text) - len(rest) + len(mark)]
                self._text = rest[len(mark) :]
                if mark == form.begin:
                    self._enter()
                    return ""
                self._state = "text"
                return self._give_raw()
            if mark.startswith(rest):
                return ""
        self._state = "text"
        return self._give_raw()

    def _give_raw(self) -> str:
        raw, self._raw = self._raw, ""
        return "" if self._called else raw

    def _step_inside(self) -> tuple[str, list[ToolCall]]:
        ended = self._body.push(self._text)
        self._text = ""
        calls: list[ToolCall] = []
        if self._held is not None:
            calls = self._held.push(self._body.text[self._shown : self._body.known])
            self._shown = self._body.known
            self._called = self._called or bool(calls)
        if not ended:
            return "", calls
        return self._complete(calls)

    def _complete(self, parts: list[ToolCall]) -> tuple[str, list[ToolCall]]:
        form, body = self._form, self._body
        assert body.end is not None
        said, self._text = body.text[: body.end], body.text[body.end + len(form.end) :]
        self._state = "between" if form.outer[0] else "text"
        if self._held is not None:
            return "", parts
        calls = self._read(said)
        if calls is None:
            self._raw += said + form.end
            if self._called or not form.outer[0]:
                raw, self._raw = self._raw, ""
                return raw, []
            return "", []
        self._called, self._raw = True, ""
        return "", self._single(calls)

    def _read(self, body: str) -> list[ToolCall] | None:
        form = self._form
        calls = read_calls(form, body if form.end else form.begin + body)
        names = self._expected.names
        if calls is not None and not form.end and names and {c.name for c in calls} - names:
            # JSON that is the answer itself
            return None
        return calls

    def _single(self, calls: Sequence[ToolCall]) -> list[ToolCall]:
        if not self._expected.single:
            return list(calls)
        self._state = "done"
        return list(calls[:1])

    def finish(self, *, cut: bool = False) -> tuple[str, list[ToolCall]]:
        """What was held back, once no more text will come; `cut`: it would have gone on."""
        content, calls = "", list[ToolCall]()
        while self._state == "inside" and self._body.give_up():
            shown, found = self._complete([])
            content, calls = content + shown, calls + found
            more = self.push("")
            content, calls = content + more[0], calls + more[1]
        if self._state == "inside":
            shown, found = self._end_inside(cut=cut)
        elif self._state == "between":
            rest = self._give_raw() + self._text
            shown, found = ("" if cut or self._called else rest), []
        else:
            shown, found = self._before.finish(), []
        content += self._content(shown)
        return content, calls + found

    def _end_inside(self, *, cut: bool) -> tuple[str, list[ToolCall]]:
        form, body = self._form, self._body.text
        if self._held is not None:
            parts = self._held.push(body[self._shown :])
            self._called = self._called or bool(parts)
            if self._called or not cut:
                return "", parts
        calls = self._read(body)
        if calls is None and cut:
            found = read_cut(form, body if form.end else form.begin + body)
            names = self._expected.names
            if form.end or {call.name for call in found} & names:
                calls = found
        if calls is None:
            return self._raw + body, []
        self._called = True
        return "", self._single(calls)
