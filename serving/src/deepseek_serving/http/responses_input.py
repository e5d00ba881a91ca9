"""What a response is asked for, in chat completions' terms: one way to prompts and upstreams."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from deepseek_serving.http.json_members import encoded_members
from deepseek_serving.http.schema.response_items import (
    FunctionCall,
    FunctionCallOutput,
    InputItem,
    InputMessage,
    ReasoningItem,
    text_of,
)
from deepseek_serving.http.schema.responses import JsonSchemaFormat, ResponsesRequest


class _Assistant:
    """A message of the assistant while its items are gathered."""

    def __init__(self) -> None:
        self._content: str | None = None
        self._thought = ""
        self._calls: list[dict[str, Any]] = []

    def takes(self, item: ReasoningItem | InputMessage | FunctionCall) -> bool:
        """Whether the item belongs to this message; a thought begins another one.

        So does a text after a text, as two messages in a row are two for templates, too. Around
        calls an answer may have several texts, and its results must follow its calls.
        """
        if isinstance(item, ReasoningItem):
            return self._content is None and not self._calls
        return isinstance(item, FunctionCall) or self._content is None or bool(self._calls)

    def add(self, item: ReasoningItem | InputMessage | FunctionCall) -> None:
        if isinstance(item, ReasoningItem):
            self._thought += item.text
        elif isinstance(item, InputMessage):
            self._content = (self._content or "") + text_of(item.content)
        else:
            function = {"name": item.name, "arguments": item.arguments}
            self._calls.append({"id": item.call_id, "type": "function", "function": function})

    def message(self) -> dict[str, Any]:
        no_content = None if self._calls else ""
        content = no_content if self._content is None else self._content
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if self._thought:
            message["reasoning_content"] = self._thought
        if self._calls:
            message["tool_calls"] = self._calls
        return message


def _messages(items: Sequence[InputItem]) -> Iterator[dict[str, Any]]:
    assistant: _Assistant | None = None
    for item in items:
        if isinstance(item, (ReasoningItem, FunctionCall)) or (
            isinstance(item, InputMessage) and item.role == "assistant"
        ):
            if assistant is None or not assistant.takes(item):
                if assistant is not None:
                    yield assistant.message()
                assistant = _Assistant()
            assistant.add(item)
            continue
        if assistant is not None:
            yield assistant.message()
            assistant = None
        yield _of_client(item)
    if assistant is not None:
        yield assistant.message()


def _of_client(item: InputMessage | FunctionCallOutput) -> dict[str, Any]:
    if isinstance(item, InputMessage):
        return {"role": item.role, "content": text_of(item.content)}
    return {"role": "tool", "tool_call_id": item.call_id, "content": text_of(item.output)}


def chat_messages(body: ResponsesRequest) -> list[dict[str, Any]]:
    """The conversation, as a client of chat completions would send it."""
    messages: list[dict[str, Any]] = []
    if body.instructions is not None:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        messages.extend(_messages(body.input))
    return messages


def chat_body(body: ResponsesRequest) -> dict[str, Any]:
    """The body of a chat request that asks for the same."""
    wanted = body.text.format if body.text else None
    choice = body.tool_choice
    asked = {
        "model": body.model,
        "messages": chat_messages(body),
        "tools": [tool.chat() for tool in body.tools] if body.tools else None,
        "tool_choice": choice if choice is None or isinstance(choice, str) else choice.chat(),
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": (
            wanted.chat()
            if isinstance(wanted, JsonSchemaFormat)
            else wanted and wanted.model_dump()
        ),
        "reasoning_effort": body.reasoning.effort if body.reasoning else None,
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "logprobs": True if body.logprobs else None,
        "top_logprobs": body.top_logprobs if body.logprobs else None,
        "stream": True if body.stream else None,
        "stream_options": {"include_usage": True} if body.stream else None,
    }
    return {name: value for name, value in asked.items() if value is not None}


def echoed(body: ResponsesRequest) -> str:
    """The members of a response that repeat its request, encoded: they may be long."""
    text, choice, reasoning = body.text, body.tool_choice, body.reasoning
    wanted = text.format if text else None
    members = {
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": body.temperature,
        "text": {
            "format": wanted.model_dump(by_alias=True) if wanted else {"type": "text"},
            "verbosity": (text.verbosity if text else None) or "medium",
        },
        "tool_choice": (
            choice or "auto" if choice is None or isinstance(choice, str) else choice.model_dump()
        ),
        "tools": [tool.echo() for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
        "user": body.user,
    }
    return encoded_members(members)


# names of chat completions, and what they are called here
RENAMED = (
    (re.compile(r"^messages\b.*"), "input"),
    (re.compile(r"^response_format(\.json_schema)?"), "text.format"),
    (re.compile(r"^max_completion_tokens$"), "max_output_tokens"),
    (re.compile(r"^reasoning_effort$"), "reasoning.effort"),
    (re.compile(r"^(tools\[\d+\])\.function"), r"\1"),
    (re.compile(r"^tool_choice\.(function|allowed_tools)"), "tool_choice"),
)


def in_our_terms(message: str, param: str | None) -> tuple[str, str | None]:
    """A refusal of the chat request, in the terms of the request for a response."""
    here = param
    for chat, name in RENAMED:
        here = here and chat.sub(name, here)
    if param and here and param != here:
        message = message.replace(param, here)
    return message, here
