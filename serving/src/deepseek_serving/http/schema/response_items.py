"""Items of the input of a response: what clients say, and what they send back of earlier output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from deepseek_serving.http.returned_thoughts import decoded
from deepseek_serving.http.schema.body import Body, only_at, refuse
from deepseek_serving.http.schema.bounds import MOST_PARTS, FunctionName, Name
from deepseek_serving.http.schema.messages import simple

# of a type that a client sends, a refusal repeats no more
LONGEST_TYPE = 64
OutputStatus = Literal["in_progress", "completed", "incomplete"]
Caller: TypeAlias = Annotated[Any, only_at({"type": "direct"})]


def shown_type(kind: object) -> str:
    """A type in a message."""
    text = str(kind)
    return repr(text if len(text) <= LONGEST_TYPE else f"{text[:LONGEST_TYPE]}...")


def _part_type(part: object) -> str | None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind is None:
        return "text"
    if kind in ("input_text", "output_text"):
        return "text"
    return "refusal" if kind == "refusal" else "other"


class TextPart(Body):
    """A part that is text: of the client's, or of an earlier answer."""

    type: Literal["input_text", "output_text"]
    text: str

    # no effect on the answer: what an earlier answer told of its text, and hints to caches
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


class RefusalPart(Body):
    """A part of an earlier answer in which the model declined."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


def _no_other_part(part: object) -> object:
    if _part_type(part) == "other":
        assert isinstance(part, Mapping)
        refuse(
            "This model takes text only: '{within}' is a part of type {kind}.",
            "type",
            kind=shown_type(part["type"]),
        )
    return part


Part = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[RefusalPart, Tag("refusal")],
    Discriminator(_part_type),
    BeforeValidator(_no_other_part),
]
Parts = str | Annotated[list[Part], Field(max_length=MOST_PARTS, fail_fast=True)]


def text_of(parts: str | Sequence[TextPart | RefusalPart]) -> str:
    """The text of all parts."""
    return parts if isinstance(parts, str) else "".join(part.text for part in parts)


class InputMessage(Body):
    """A message of the client, or of an earlier answer."""

    type: Literal["message"] = "message"
    role: Literal["user", "system", "developer", "assistant"]
    content: Parts

    # no effect on the answer
    id: Name | None = None
    status: OutputStatus | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class SummaryText(Body):
    """Some of a summary of a thought."""

    type: Literal["summary_text"]
    text: str


class ReasoningText(Body):
    """Some of a thought."""

    type: Literal["reasoning_text"]
    text: str


def _decoded(content: str) -> str:
    try:
        return decoded(content) if content else ""
    except ValueError:
        refuse(
            "'{path}' is none that this service has sent, and only the service that encrypted it "
            "can read it. Leave it out; a thought may be sent as text, in content."
        )


class ReasoningItem(Body):
    """A thought of an earlier answer."""

    type: Literal["reasoning"]
    content: Annotated[list[ReasoningText], Field(max_length=MOST_PARTS)] | None = None
    summary: Annotated[list[SummaryText], Field(max_length=MOST_PARTS)] | None = None
    encrypted_content: Annotated[str, AfterValidator(_decoded)] | None = None

    # no effect on the answer
    id: Name | None = None
    status: OutputStatus | None = None

    @property
    def text(self) -> str:
        """The thought itself, or else what is known of it."""
        if self.content or not self.encrypted_content:
            parts: Sequence[ReasoningText | SummaryText] = self.content or self.summary or ()
            return "".join(part.text for part in parts)
        return self.encrypted_content


class FunctionCall(Body):
    """A call of an earlier answer."""

    type: Literal["function_call"]
    call_id: Name
    name: FunctionName
    arguments: Annotated[str, AfterValidator(simple)]

    # no effect on the answer
    id: Name | None = None
    status: OutputStatus | None = None
    parsed_arguments: Any = None

    # would change it if they were heeded
    caller: Caller = None
    namespace: Annotated[Any, only_at()] = None
    asynchronous: Annotated[Any, only_at(False)] = Field(default=None, alias="async")


class FunctionCallOutput(Body):
    """What a called function gave."""

    type: Literal["function_call_output"]
    call_id: Name
    output: Parts

    # no effect on the answer
    id: Name | None = None
    name: Name | None = None
    status: OutputStatus | None = None

    # would change it if they were heeded
    caller: Caller = None
    namespace: Annotated[Any, only_at()] = None


ITEMS = ("message", "reasoning", "function_call", "function_call_output")


def _item_type(item: object) -> str:
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind is not None:
        return str(kind)
    is_reference = isinstance(item, Mapping) and "id" in item and "role" not in item
    return "item_reference" if is_reference else "message"


def _no_other_item(item: object) -> object:
    kind = _item_type(item)
    if kind == "item_reference":
        refuse(
            "'{path}' refers to an item of an earlier response, and this service keeps none: send "
            "the items themselves. Clients that refer to items unless told otherwise have a "
            "setting for it: store: false."
        )
    if kind not in ITEMS:
        refuse(
            "Invalid value for '{path}': this service has no items of type {kind}; it takes "
            f"{', '.join(ITEMS)}.",
            "type",
            kind=shown_type(kind),
        )
    return item


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")],
    Discriminator(_item_type),
    BeforeValidator(_no_other_item),
]
