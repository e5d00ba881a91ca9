"""Messages of a conversation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from deepseek_serving.http.json_bounds import MOST_CONTAINERS, MOST_VALUES, Shape, shape
from deepseek_serving.http.schema.body import INTEGER, Body, only_at, refuse
from deepseek_serving.http.schema.bounds import MOST_CALLS, MOST_PARTS, FunctionName, Name


def _text_alone(kind: object) -> object:
    if isinstance(kind, str) and kind != "text":
        shown = kind if len(kind) <= 64 else f"{kind[:64]}..."
        refuse(
            "This model takes text only: '{within}' is a part of the type {kind}.", kind=repr(shown)
        )
    return kind


class TextPart(Body):
    """A part of a message that is text."""

    type: Annotated[Literal["text"], BeforeValidator(_text_alone)]
    text: str

    # no effect on the answer: hints to caches of other services
    cache_control: dict[str, Any] | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


class RefusalPart(Body):
    """A part of a message by which the assistant refused something."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


def _kind(part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return "refusal part" if kind == "refusal" else "text part"


Part = Annotated[
    Annotated[TextPart, Tag("text part")] | Annotated[RefusalPart, Tag("refusal part")],
    Discriminator(_kind),
]


def simple(text: str) -> str:
    """Templates may want it parsed, which nothing interrupts."""
    most = Shape(MOST_CONTAINERS, MOST_VALUES)
    found = shape(text.encode("utf-8", "replace"), most)
    if found is None or found.containers > most.containers or found.values > most.values:
        refuse("'{path}' has more values than any call needs.")
    return text


class CalledFunction(Body):
    """The function of an earlier call, and its arguments as JSON text."""

    name: FunctionName
    arguments: Annotated[str, AfterValidator(simple)]


class Called(Body):
    """An earlier call of a tool, as the client sends it back."""

    id: Name = ""
    type: Literal["function"] = "function"
    function: CalledFunction
    # of the streamed deltas that a client has put together
    index: Annotated[int, INTEGER] | None = None


class Message(Body):
    """Unknown fields are ignored: clients send an assistant's message back with all its fields."""

    model_config = ConfigDict(
        extra="ignore",
        # what `has_content` asks for
        json_schema_extra={
            "anyOf": [
                {"properties": {"role": {"const": "assistant"}}},
                {
                    "required": ["content"],
                    "properties": {
                        "content": {"type": ["string", "array"]},
                        "tool_calls": {"type": ["array", "null"], "maxItems": 0},
                    },
                },
            ]
        },
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], Field(max_length=MOST_PARTS, fail_fast=True)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[Called], Field(max_length=MOST_CALLS, fail_fast=True)] | None = None
    tool_call_id: Name | None = None
    # what we call the thoughts of an answer, and what others do
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    # DeepSeek's: this message, the last, is gone on with
    prefix: bool | None = None

    # would change the prompt if they were heeded
    function_call: Annotated[Any, only_at()] = None
    audio: Annotated[Any, only_at()] = None

    @model_validator(mode="after")
    def has_content(self) -> Message:
        if self.content is None and self.role != "assistant":
            refuse("Missing required parameter: '{path}'; a message needs content.", "content")
        if self.tool_calls and self.role != "assistant":
            refuse("'{path}': only messages of the assistant have tool_calls.", "tool_calls")
        return self

    def plain(self) -> dict[str, Any]:
        """As templates get it, which `text.template_conventions` sees to: without what is null."""
        content: Any = self.refusal if self.content is None else self.content
        if isinstance(content, list):
            content = [{"type": "text", "text": part.text} for part in content]
        message = {
            "role": self.role,
            "content": content,
            "reasoning_content": self._reasoning,
            "tool_calls": [_plain(call) for call in self.tool_calls or ()] or None,
            "name": self.name,
            "tool_call_id": self.tool_call_id,
        }
        return {name: value for name, value in message.items() if value is not None}

    @property
    def _reasoning(self) -> str | None:
        if self.role != "assistant":
            return None
        return self.reasoning if self.reasoning_content is None else self.reasoning_content


def _plain(call: Called) -> dict[str, Any]:
    given = call.model_dump(exclude={"index"})
    if not call.id:
        del given["id"]
    return given
