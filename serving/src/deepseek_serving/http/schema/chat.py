"""The body of a chat request."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from deepseek_serving.generation.request import Chat, Options, Tools
from deepseek_serving.http.schema.accepted import ChatAccepted
from deepseek_serving.http.schema.body import INTEGER, refuse
from deepseek_serving.http.schema.bounds import MOST_CALLS, MOST_MESSAGES, Count
from deepseek_serving.http.schema.formats import Formatted
from deepseek_serving.http.schema.messages import Message
from deepseek_serving.http.schema.prompts import PromptRequest
from deepseek_serving.http.schema.sampled import Sampled
from deepseek_serving.http.schema.tools import Tool, ToolChoice, called_tools, unknown_tool


class ChatRequest(Sampled, ChatAccepted, Formatted, PromptRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[
        list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    ]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), INTEGER] | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_CALLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def agrees(self) -> ChatRequest:
        if unknown_tool(self.tools or [], self.tool_choice) is not None:
            refuse("tool_choice names a function that is not among the tools", "tool_choice")
        if self.tool_choice == "required" and not self.tools:
            refuse("tool_choice is required, but there are no tools", "tool_choice")
        if self.top_logprobs and not self.logprobs:
            refuse("top_logprobs needs logprobs", "top_logprobs")
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
    def called_tools(self) -> Tools | None:
        """The tools that the model may call, if there are any."""
        parallel = self.parallel_tool_calls is not False
        return called_tools(self.tools or [], self.tool_choice, parallel=parallel)

    def asked(self) -> Chat:
        return Chat(
            model=self.model,
            messages=[message.plain() for message in self.messages],
            chosen=self.options(),
            called_tools=self.called_tools,
            answer_format=self.answer_format,
            prompt=self.prompt_options(prefix=bool(self.messages[-1].prefix)),
            logprobs=bool(self.logprobs),
            prompt_logprobs=self.prompt_logprobs,
            stream=bool(self.stream),
            usage=self.usage,
        )
