"""The body of a chat request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from deepseek_serving.generation.request import Chat, Options, Tools
from deepseek_serving.http.schema.accepted import ChatAccepted
from deepseek_serving.http.schema.body import INTEGER, refused
from deepseek_serving.http.schema.bounds import MOST_CALLS, MOST_MESSAGES, Count
from deepseek_serving.http.schema.formats import ObjectFormat, ResponseFormat, SchemaFormat
from deepseek_serving.http.schema.messages import Message
from deepseek_serving.http.schema.prompts import PromptRequest
from deepseek_serving.http.schema.sampled import Sampled
from deepseek_serving.http.schema.tools import NamedTool, Tool


class ChatRequest(Sampled, ChatAccepted, PromptRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[
        list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    ]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), INTEGER] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_CALLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None

    # no effect on the answer
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def agrees(self) -> ChatRequest:
        names = [tool.function.name for tool in self.tools or []]
        choice = self.tool_choice
        if isinstance(choice, NamedTool) and choice.function.name not in names:
            raise refused("tool_choice names a function that is not among the tools", "tool_choice")
        if choice == "required" and not names:
            raise refused("tool_choice is required, but there are no tools", "tool_choice")
        if self.top_logprobs and not self.logprobs:
            raise refused("top_logprobs needs logprobs", "top_logprobs")
        if self.json_schema is not None and self.called_tools is not None:
            raise refused(
                "response_format and tools exclude each other here: a call is not what the "
                "format asks for; ask with tool_choice none",
                "response_format",
            )
        return self

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def options(self) -> Options:
        return self.sampling_options(
            max_tokens=self.most_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            score=self.prompt_logprobs,
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
            prompt=self.prompt_options(prefix=bool(self.messages[-1].prefix)),
            logprobs=bool(self.logprobs),
            prompt_logprobs=self.prompt_logprobs,
            stream=bool(self.stream),
            usage=self.usage,
        )
