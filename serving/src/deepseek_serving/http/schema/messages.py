"""Messages of a conversation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from deepseek_serving.http.json_bounds import MOST_CONTAINERS, MOST_VALUES, Shape, shape
from deepseek_serving.http.schema.body import INTEGER, Body, refused
from deepseek_serving.http.schema.bounds import MOST_CALLS, MOST_PARTS, FunctionName, Name


def _text_alone(kind: object) -> object:
    if isinstance(kind, str) and kind != "text":
        shown = kind if len(kind) <= 64 else f"{kind[:64]}..."
        raise refused(
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


def simple(text: str) -> str:
    """Templates may want it parsed, which nothing interrupts."""
    most = Shape(MOST_CONTAINERS, MOST_VALUES)
    found = shape(text.encode("utf-8", "replace"), most)
    if found is None or found.containers > most.containers or found.values > most.values:
        raise refused("'{path}' has more values than any call needs.")
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

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        str | Annotated[list[TextPart], Field(max_length=MOST_PARTS, fail_fast=True)] | None
    ) = None
    name: Name | None = None
    tool_calls: Annotated[list[Called], Field(max_length=MOST_CALLS, fail_fast=True)] | None = None
    tool_call_id: Name | None = None

    @model_validator(mode="after")
    def has_content(self) -> Message:
        if self.content is None and not self.tool_calls:
            raise refused(
                "Missing required parameter: '{path}'; a message needs content.", "content"
            )
        if self.tool_calls and self.role != "assistant":
            raise refused("'{path}': only messages of the assistant have tool_calls.", "tool_calls")
        return self

    def plain(self) -> dict[str, Any]:
        parts = self.content
        text = "".join(part.text for part in parts) if isinstance(parts, list) else parts
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": text}
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump(exclude={"index"}) for call in self.tool_calls]
        for name in ("name", "tool_call_id"):
            value = getattr(self, name)
            if value is not None:
                message[name] = value
        return message
