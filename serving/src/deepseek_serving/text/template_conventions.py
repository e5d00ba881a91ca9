"""What a chat template expects of messages, found out by rendering small conversations.

Templates do not agree on what a message of calls has for content (`none`, an empty text, nothing),
on whether the arguments of a call are an object or a text, and on content in parts; and a wrong
guess is mostly no error but another prompt. So each template is asked, once, with words that would
have to appear. Names of families are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from deepseek_serving.text.template import ChatTemplate
from deepseek_serving.text.template_environment import TemplateError

Message: TypeAlias = Mapping[str, Any]
Silence: TypeAlias = Literal["absent", "empty", "null"]

# as transformers does it, which drops what is None, comes first
SILENCES: Mapping[Silence, Mapping[str, Any]] = {
    "absent": {},
    "empty": {"content": ""},
    "null": {"content": None},
}
REASONING = ("reasoning_content", "reasoning", "thinking")
# vLLM and llama.cpp join parts by it
BETWEEN_PARTS = "\n"

_FUNCTION, _ARGUMENT, _VALUE = "probed_function", "probed_argument", "probed_value"
_ASKED, _FIRST, _SECOND = "probed question", "probed first part", "probed second part"
_USER = {"role": "user", "content": _ASKED}
_ANSWER = {"role": "assistant", "content": "probed answer"}
_TOOL = {
    "type": "function",
    "function": {
        "name": _FUNCTION,
        "description": "probe",
        "parameters": {"type": "object", "properties": {_ARGUMENT: {"type": "string"}}},
    },
}
# ids of nine letters and digits are what the strictest templates take
_ID = "probe0001"
_RESULT = {"role": "tool", "name": _FUNCTION, "tool_call_id": _ID, "content": "probed result"}

Render: TypeAlias = Callable[[Sequence[Message]], "str | None"]


def _called(arguments: object, silence: Mapping[str, Any]) -> Message:
    function = {"name": _FUNCTION, "arguments": arguments}
    call = {"id": _ID, "type": "function", "function": function}
    return {"role": "assistant", **silence, "tool_calls": [call]}


@dataclass(frozen=True)
class Conventions:
    """How messages are given to one template."""

    # the content of an assistant's message that has none: with calls, and without
    calling: Silence = "absent"
    silent: Silence = "empty"
    # what it takes of arguments
    objects: bool = True
    # roles whose content may be a list of parts, and those where it must be
    parts: frozenset[str] = field(default_factory=frozenset)
    only_parts: frozenset[str] = field(default_factory=frozenset)
    developer: bool = False

    @classmethod
    def of(cls, template: ChatTemplate, variables: Mapping[str, Any]) -> Conventions:
        """Those of a template, which is told `variables`."""

        def render(messages: Sequence[Message]) -> str | None:
            tools = [_TOOL] if template.takes_tools else None
            try:
                return template.render(
                    messages=messages,
                    **{
                        "tools": tools,
                        "documents": None,
                        "add_generation_prompt": True,
                        **variables,
                    },
                )
            except TemplateError:
                return None

        objects, calling = _of_calls(render)
        parts, only_parts = _of_parts(render)
        return cls(
            calling=calling,
            silent=_of_silence(render),
            objects=objects,
            parts=parts,
            only_parts=only_parts,
            developer="developer" in template.constants,
        )

    def conform(self, messages: Iterable[Message]) -> list[dict[str, Any]]:
        """Messages as this template wants them, all of them new."""
        return [self._conformed(message) for message in messages]

    def _conformed(self, message: Message) -> dict[str, Any]:
        given = {name: value for name, value in message.items() if value is not None}
        role = given["role"]
        if role == "developer" and not self.developer:
            given["role"] = role = "system"
        content = given.get("content")
        if isinstance(content, list) and role not in self.parts:
            given["content"] = content = BETWEEN_PARTS.join(part["text"] for part in content)
        elif isinstance(content, str) and role in self.only_parts:
            given["content"] = [{"type": "text", "text": content}]
        if role == "assistant":
            self._conform_reply(given)
        return given

    def _conform_reply(self, given: dict[str, Any]) -> None:
        reasoning = next((given[name] for name in REASONING if name in given), None)
        if reasoning is not None:
            given |= dict.fromkeys(REASONING, reasoning)
        calls = given.get("tool_calls")
        if calls:
            if self.objects:
                given["tool_calls"] = [_with_object(call) for call in calls]
            # to a template that wants none for it, an empty text is an answer beside the calls
            if "content" not in given or (given["content"] == "" and self.calling == "null"):
                given.pop("content", None)
                given |= SILENCES[self.calling]
        else:
            # an empty list means as little
            given.pop("tool_calls", None)
            if "content" not in given:
                given |= SILENCES[self.silent]


def _with_object(call: Message) -> Message:
    """Of a call that was cut, the text is what there is."""
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


# --- the questions --------------------------------------------------------------------------------


def _written(text: str | None) -> bool:
    """Whether a call with its argument is there, and not as Python would show it."""
    return text is not None and _FUNCTION in text and _VALUE in text and f"'{_VALUE}'" not in text


def _of_calls(render: Render) -> tuple[bool, Silence]:
    """Whether arguments are objects, and what a message of calls has for content."""
    spoken = render([_USER, _called({_ARGUMENT: _VALUE}, {"content": "probed words"})])
    arguments: Mapping[bool, object] = {
        True: {_ARGUMENT: _VALUE},
        False: json.dumps({_ARGUMENT: _VALUE}),
    }
    for after in ([_RESULT], []):
        for objects, given in arguments.items():
            texts = {
                silence: render([_USER, _called(given, content), *after])
                for silence, content in SILENCES.items()
            }
            nones = (spoken or "").count("None")
            fitting = {
                silence: text
                for silence, text in texts.items()
                if text is not None and _written(text) and text.count("None") <= nones
            }
            if "absent" in fitting:
                return objects, "absent"
            if fitting:
                # what is longer has a message beside the calls
                shortest = min(fitting, key=lambda silence: len(fitting[silence]))
                return objects, shortest
    return True, _of_silence(render)


def _of_silence(render: Render) -> Silence:
    """What an assistant's message without anything has for content."""
    spoken = render([_USER, _ANSWER, _USER]) or ""
    for silence, content in SILENCES.items():
        text = render([_USER, {"role": "assistant", **content}, _USER])
        if text is not None and text.count("None") <= spoken.count("None"):
            return silence
    return "empty"


def _shown(text: str) -> int:
    """How often a part is there as JSON or Python would show it."""
    return text.count("'text'") + text.count('"text"')


def _of_parts(render: Render) -> tuple[frozenset[str], frozenset[str]]:
    """Roles whose content may be parts, and those of which a text would not appear."""
    places: Mapping[str, Callable[[object], Sequence[Message]]] = {
        "system": lambda content: [{"role": "system", "content": content}, _USER],
        "user": lambda content: [{"role": "user", "content": content}],
        "assistant": lambda content: [_USER, {"role": "assistant", "content": content}, _USER],
        "tool": lambda content: [
            _USER,
            _called({_ARGUMENT: _VALUE}, {"content": ""}),
            {**_RESULT, "content": content},
        ],
    }
    listed = [{"type": "text", "text": _FIRST}, {"type": "text", "text": _SECOND}]
    parts, only = set(), set()
    for role, conversation in places.items():
        as_parts, as_text = render(conversation(listed)), render(conversation(_FIRST))
        if as_parts is None or _FIRST not in as_parts or _SECOND not in as_parts:
            continue
        if _shown(as_parts) > _shown(as_text or ""):
            # as one value, which is no reading of parts
            continue
        parts.add(role)
        if as_text is None or _FIRST not in as_text:
            only.add(role)
    return frozenset(parts), frozenset(only)
