"""The body of a request for a response."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from deepseek_serving.http.schema.body import INTEGER, Body, only_at, refuse
from deepseek_serving.http.schema.bounds import (
    MOST_CALLS,
    MOST_MESSAGES,
    Count,
    FunctionName,
    Name,
)
from deepseek_serving.http.schema.formats import ObjectFormat, TextFormat
from deepseek_serving.http.schema.response_items import InputItem, shown_type

# a message of an assistant is up to two items beside its calls: its thought and its text
MOST_ITEMS = 2 * MOST_MESSAGES
MOST_INCLUDED = 32
# as OpenAI has it
MOST_METADATA = 16
LOGPROBS = "message.output_text.logprobs"
THOUGHTS = "reasoning.encrypted_content"


def _functions_alone(kind: object) -> object:
    if isinstance(kind, str) and kind != "function":
        refuse(
            "Invalid value for '{path}': this service has no tools of its own, and none of type "
            "{kind}; it takes functions, which the client runs.",
            kind=shown_type(kind),
        )
    return kind


class FunctionTool(Body):
    """A function that the model may call."""

    type: Annotated[Literal["function"], BeforeValidator(_functions_alone)]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    # no effect on the answer
    output_schema: dict[str, Any] | None = None

    # would change it if they were heeded
    allowed_callers: Annotated[Any, only_at(["direct"])] = None
    asynchronous: Annotated[Any, only_at(False)] = Field(default=None, alias="async")
    defer_loading: Annotated[Any, only_at(False)] = None

    def chat(self) -> dict[str, Any]:
        """The tool as chat completions have it."""
        members = {"name", "description", "parameters", "strict"}
        return {
            "type": "function",
            "function": self.model_dump(include=members, exclude_none=True),
        }

    def echo(self) -> dict[str, Any]:
        """The tool as a response has it."""
        return self.model_dump(include={"type", "name", "description", "parameters", "strict"})


class ChosenFunction(Body):
    """The function that the model must call."""

    type: Annotated[Literal["function"], BeforeValidator(_functions_alone)]
    name: Name

    def chat(self) -> dict[str, Any]:
        return {"type": "function", "function": {"name": self.name}}


class AllowedTools(Body):
    """Those of the tools that the model may, or must, call."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenFunction], Field(min_length=1, max_length=MOST_CALLS)]

    def chat(self) -> dict[str, Any]:
        tools = [tool.chat() for tool in self.tools]
        return {"type": "allowed_tools", "allowed_tools": {"mode": self.mode, "tools": tools}}


class JsonSchemaFormat(Body):
    """An answer that a JSON schema accepts."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["json_schema"]
    name: Name
    # `schema` is a method of pydantic's models
    wanted: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None

    def chat(self) -> dict[str, Any]:
        members = self.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
        return {"type": "json_schema", "json_schema": members}


class Text(Body):
    """What the text of the answer must look like."""

    format: (
        Annotated[TextFormat | ObjectFormat | JsonSchemaFormat, Field(discriminator="type")] | None
    ) = None
    # no effect on the answer
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Body):
    """How the model thinks."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None

    # no effect on the answer: thoughts come as they are, without a summary
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None

    # would change it if they were heeded
    context: Annotated[Any, only_at("auto")] = None
    mode: Annotated[Any, only_at("standard")] = None


class ResponseStreamOptions(Body):
    """Options of a streamed response."""

    # it hides lengths from those who see the encrypted stream, which nobody here does
    include_obfuscation: Annotated[Any, only_at(False)] = None


def _kept_nowhere(value: object) -> object:
    refuse(
        "The parameter '{path}' is not supported: this service keeps no responses. Send the whole "
        "conversation in input."
    )


# for what would need a response that was kept
Kept = Annotated[Any, BeforeValidator(_kept_nowhere), WithJsonSchema({"type": "null"})]


def _not_stored(value: object) -> object:
    if value is True:
        refuse(
            "'{path}' cannot be true: this service keeps no responses. Leave it out, or send false."
        )
    return value


Included = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]


def _few_pairs(value: object) -> object:
    """Before any is looked at: of a dictionary, unlike of a list, every error is collected."""
    if isinstance(value, dict) and len(value) > MOST_METADATA:
        refuse(f"Invalid '{{path}}': expected at most {MOST_METADATA} pairs, but got {len(value)}.")
    return value


MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


class ResponsesAccepted(Body):
    """Parameters that change nothing here, or may ask for nothing."""

    # no effect on the answer
    metadata: Annotated[dict[MetadataKey, MetadataValue], BeforeValidator(_few_pairs)] | None = None
    client_metadata: dict[str, Any] | None = None
    user: Name | None = None
    safety_identifier: Name | None = None
    prompt_cache_key: Name | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    service_tier: (
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None
    ) = None
    # of tools that a service runs, and this one runs none
    max_tool_calls: Count | None = None

    # this service keeps nothing
    store: (
        Annotated[bool, BeforeValidator(_not_stored), WithJsonSchema({"const": False})] | None
    ) = None
    previous_response_id: Kept = None
    conversation: Kept = None
    prompt: Kept = None

    # would change the answer, or how it comes, if they were heeded
    access_programs: Annotated[Any, only_at()] = None
    background: Annotated[Any, only_at(False)] = None
    background_options: Annotated[Any, only_at()] = None
    context_management: Annotated[Any, only_at([])] = None
    image: Annotated[Any, only_at()] = None
    moderation: Annotated[Any, only_at()] = None
    truncation: Annotated[Any, only_at("disabled")] = None


class ResponsesRequest(ResponsesAccepted):
    """The body of POST /v1/responses."""

    model: Name
    input: (
        str | Annotated[list[InputItem], Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)]
    )
    instructions: str | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_CALLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: Count | None = None
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_logprobs: Annotated[int, Field(ge=0, le=20), INTEGER] | None = None
    include: Annotated[list[Included], Field(max_length=MOST_INCLUDED, fail_fast=True)] | None = (
        None
    )
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None

    @property
    def logprobs(self) -> bool:
        """Whether the tokens' probabilities are asked for."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    @property
    def encodes_thoughts(self) -> bool:
        """Whether thoughts are asked for in a form to be sent back."""
        return THOUGHTS in (self.include or ())
