"""Requests of the OpenAI API: what is supported, and a clear no to what is not."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from deepseek_serving.generation.request import Chat, Completion, Embedding, Options, Text, Tools
from deepseek_serving.http.json_bounds import MOST_CONTAINERS, MOST_VALUES, Shape, shape

MOST_CHOICES = 16
# as OpenAI has it
MOST_MESSAGES = 2048
MOST_PARTS = 1024
MOST_CALLS = 128
MOST_TEXTS = 2048
MOST_BIASES = 1024
# the largest contexts have as many
MOST_TOKENS = 2**20


def _only(*accepted: object) -> AfterValidator:
    """For a parameter that is accepted only at values that ask for nothing."""

    def check(value: object) -> object:
        if value is not None and value not in accepted:
            raise ValueError("is not supported by this service")
        return value

    return AfterValidator(check)


def _few_biases(value: object) -> object:
    """Before any is looked at: of a dictionary, unlike of a list, every error is collected."""
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        raise ValueError(f"has {len(value)} entries; at most {MOST_BIASES} are accepted")
    return value


def _bias(value: dict[str, float] | None) -> dict[str, float] | None:
    for token, bias in (value or {}).items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise ValueError(f"{token[:32]!r} is not the number of a token")
        if not (math.isfinite(bias) and -100 <= bias <= 100):
            raise ValueError(f"the bias of token {token} is not between -100 and 100")
    return value


StopString = Annotated[str, Field(min_length=1, max_length=256)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(max_length=256)]
FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class TextPart(BaseModel):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


def _simple(text: str) -> str:
    """Templates may want it parsed, which nothing interrupts."""
    most = Shape(MOST_CONTAINERS, MOST_VALUES)
    found = shape(text.encode("utf-8", "replace"), most)
    if found is None or found.containers > most.containers or found.values > most.values:
        raise ValueError("has more values than any call needs")
    return text


class CalledFunction(BaseModel):
    """The function of an earlier call, and its arguments as JSON text."""

    name: FunctionName
    arguments: Annotated[str, AfterValidator(_simple)]


class Called(BaseModel):
    """An earlier call of a tool, as the client sends it back."""

    id: Name = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """Unknown fields are ignored: clients send an assistant's message back with all its fields."""

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
            raise ValueError("a message needs content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only messages of the assistant have tool_calls")
        return self

    def plain(self) -> dict[str, Any]:
        parts = self.content
        text = "".join(part.text for part in parts) if isinstance(parts, list) else parts
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": text}
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        for name in ("name", "tool_call_id"):
            value = getattr(self, name)
            if value is not None:
                message[name] = value
        return message


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool = False


class Function(BaseModel):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    """The name of a function."""

    name: Name


class NamedTool(BaseModel):
    """The tool that the model must call."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(BaseModel):
    """A JSON schema and its name."""

    model_config = ConfigDict(populate_by_name=True)

    name: Name | None = None
    description: str | None = None
    strict: bool | None = None
    # `schema` is a method of pydantic's models
    wanted: dict[str, Any] = Field(alias="schema")


class TextFormat(BaseModel):
    """An answer in free text."""

    type: Literal["text"]


class ObjectFormat(BaseModel):
    """An answer that is any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(BaseModel):
    """An answer that a JSON schema accepts."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class _Sampled(BaseModel):
    """What chat and completion requests share."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10, allow_inf_nan=False)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[
        dict[str, float] | None,
        Field(max_length=MOST_BIASES),
        BeforeValidator(_few_biases),
        AfterValidator(_bias),
    ] = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    stop: StopString | Annotated[list[StopString], Field(max_length=4, fail_fast=True)] | None = (
        None
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # no effect on the answer
    user: str | None = None

    def _options(self, *, max_tokens: int | None, logprobs: int | None) -> Options:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Options(
            temperature=self.temperature,
            top_p=self.top_p,
            # numpy wants no negative seeds
            seed=None if self.seed is None else self.seed % 2**64,
            max_tokens=max_tokens,
            stop=stop,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            logprobs=logprobs,
            n=self.n or 1,
        )

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(_Sampled):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[
        list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    ]
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_CALLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None

    # no effect on the answer
    metadata: Any = None
    store: bool | None = None
    parallel_tool_calls: bool | None = None

    # would change the answer if it were heeded
    functions: Annotated[Any, _only([])] = None
    modalities: Annotated[Any, _only(["text"])] = None

    @model_validator(mode="after")
    def agrees(self) -> ChatRequest:
        names = [tool.function.name for tool in self.tools or []]
        choice = self.tool_choice
        if isinstance(choice, NamedTool) and choice.function.name not in names:
            raise ValueError("tool_choice names a function that is not among the tools")
        if choice == "required" and not names:
            raise ValueError("tool_choice is required, but there are no tools")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        if self.json_schema is not None and self.called_tools is not None:
            raise ValueError(
                "response_format and tools exclude each other here: a call is not what the "
                "format asks for; ask with tool_choice none"
            )
        return self

    def options(self) -> Options:
        return self._options(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )

    @property
    def json_schema(self) -> dict[str, Any] | None:
        """What the answer must look like; None if it is free."""
        wanted = self.response_format
        if isinstance(wanted, SchemaFormat):
            return wanted.json_schema.wanted
        return {"type": "object"} if isinstance(wanted, ObjectFormat) else None

    @property
    def called_tools(self) -> Tools | None:
        """The tools that the model may call, if there are any."""
        if not self.tools or self.tool_choice == "none":
            return None
        functions = [tool.function.model_dump(exclude_none=True) for tool in self.tools]
        force: tuple[str, ...] = ()
        if isinstance(self.tool_choice, NamedTool):
            force = (self.tool_choice.function.name,)
        elif self.tool_choice == "required":
            force = tuple(function["name"] for function in functions)
        return Tools(functions, force)

    def asked(self) -> Chat:
        return Chat(
            model=self.model,
            messages=[message.plain() for message in self.messages],
            chosen=self.options(),
            called_tools=self.called_tools,
            json_schema=self.json_schema,
            logprobs=bool(self.logprobs),
            stream=bool(self.stream),
            include_usage=self.include_usage,
        )


def _plain(given: str | list[int] | list[str] | list[list[int]]) -> list[Text]:
    """Each text by itself; the numbers of tokens as an array, which is handed over cheaply."""
    if isinstance(given, str):
        return [given]
    texts: Sequence[Any] = [given] if isinstance(given[0], int) else given
    return [text if isinstance(text, str) else array("i", text) for text in texts]


TokenPrompt = Annotated[list[TokenId], Field(min_length=1, max_length=MOST_TOKENS, fail_fast=True)]


class CompletionRequest(_Sampled):
    """The body of POST /v1/completions."""

    prompt: (
        str
        | TokenPrompt
        | Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True)]
        | Annotated[list[TokenPrompt], Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True)]
    )
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool | None = None

    # would change the answer if they were heeded
    suffix: Annotated[Any, _only("")] = None
    best_of: Annotated[Any, _only(1)] = None

    @model_validator(mode="after")
    def agrees(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo and logprobs exclude each other here")
        return self

    def options(self) -> Options:
        return self._options(max_tokens=self.max_tokens or 16, logprobs=self.logprobs)

    def asked(self) -> Completion:
        return Completion(
            model=self.model,
            prompts=_plain(self.prompt),
            chosen=self.options(),
            logprobs=self.logprobs,
            echo=bool(self.echo),
            stream=bool(self.stream),
            include_usage=self.include_usage,
        )


class EmbeddingRequest(BaseModel):
    """The body of POST /v1/embeddings."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    input: (
        str
        | TokenPrompt
        | Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS, fail_fast=True)]
        | Annotated[list[TokenPrompt], Field(min_length=1, max_length=MOST_TEXTS, fail_fast=True)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)

    # no effect on the answer
    user: str | None = None

    def asked(self) -> Embedding:
        return Embedding(
            model=self.model,
            texts=_plain(self.input),
            encoding_format=self.encoding_format,
            dimensions=self.dimensions,
        )
