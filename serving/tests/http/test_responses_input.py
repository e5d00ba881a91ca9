"""What a response may be asked for, and which chat request is the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepseek_serving.generation.request import Format
from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.responses_input import in_our_terms
from deepseek_serving.http.returned_thoughts import encoded
from deepseek_serving.http.validation import (
    ReadChat,
    ReadForwarded,
    ReadResponse,
    ResponseAsked,
)

ASK: dict[str, Any] = {"model": "m", "input": "Where is the patient?"}
TOOL: dict[str, Any] = {"type": "function", "name": "find", "parameters": {"type": "object"}}
CALL: dict[str, Any] = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "find",
    "arguments": '{"bed":3}',
    "status": "completed",
}
RESULT: dict[str, Any] = {"type": "function_call_output", "call_id": "call_1", "output": "in bed 3"}
THOUGHT: dict[str, Any] = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Hm."}],
    "encrypted_content": None,
    "status": "completed",
}


def said(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant"}
    return {**message, "content": [part]}


def asked(**more: Any) -> ResponseAsked[Any]:
    return ReadResponse(ReadChat()).read(json.dumps({**ASK, **more}).encode())


def forwarded(**more: Any) -> dict[str, Any]:
    """The chat request that an upstream gets."""
    reading = ReadResponse(ReadForwarded("/v1/chat/completions", "behind"))
    return dict(json.loads(reading.read(json.dumps({**ASK, **more}).encode()).chat.body))


def refusal(**more: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        asked(**more)
    return caught.value


def messages(*items: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return list(forwarded(input=list(items), **more)["messages"])


def test_a_text_is_a_message_and_instructions_come_first() -> None:
    chat = asked(instructions="Be brief.").chat
    assert [(m["role"], m["content"]) for m in chat.messages] == [
        ("system", "Be brief."),
        ("user", "Where is the patient?"),
    ]


def test_messages_of_all_roles_and_their_parts() -> None:
    found = messages(
        {"role": "system", "content": "A"},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "B"}]},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "C"}, {"type": "input_text", "text": "D"}],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "E"},
    )
    assert [(m["role"], m["content"]) for m in found] == [
        ("system", "A"),
        ("developer", "B"),
        ("user", "CD"),
        ("assistant", "No."),
        ("user", "E"),
    ]


def test_the_items_of_one_answer_are_one_message() -> None:
    user = {"role": "user", "content": "?"}
    other = {**CALL, "call_id": "call_2"}
    (_user, answer, *results) = messages(user, THOUGHT, said("I look."), CALL, other, RESULT)
    assert answer["content"] == "I look."
    assert answer["reasoning_content"] == "Hm."
    assert [made["id"] for made in answer["tool_calls"]] == ["call_1", "call_2"]
    assert answer["tool_calls"][0]["function"] == {"name": "find", "arguments": '{"bed":3}'}
    assert results == [{"role": "tool", "tool_call_id": "call_1", "content": "in bed 3"}]


def test_a_call_without_a_text_has_no_content() -> None:
    (answer,) = messages(CALL)
    assert answer["content"] is None


def test_a_text_after_calls_belongs_to_their_message() -> None:
    (answer, _result) = messages(said("I look."), CALL, said(" Now."), RESULT)
    assert answer["content"] == "I look. Now."


def test_two_texts_in_a_row_are_two_messages() -> None:
    found = messages(
        {"role": "assistant", "content": "A"}, {"role": "assistant", "content": "B"}, THOUGHT
    )
    assert [m["content"] for m in found] == ["A", "B", ""]
    assert found[2]["reasoning_content"] == "Hm."


def test_results_may_be_parts_and_thoughts_summaries() -> None:
    parts = [{"type": "input_text", "text": "in "}, {"type": "input_text", "text": "bed 3"}]
    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Short."}]}
    (answer, result) = messages(summary, CALL, {**RESULT, "output": parts})
    assert answer["reasoning_content"] == "Short."
    assert result["content"] == "in bed 3"


def test_an_encoded_thought_is_read_where_there_is_no_text() -> None:
    kept = {"type": "reasoning", "summary": [], "encrypted_content": encoded("Hm, é.")}
    assert messages(kept)[0]["reasoning_content"] == "Hm, é."
    assert (
        messages({**THOUGHT, "encrypted_content": encoded("Ha.")})[0]["reasoning_content"] == "Hm."
    )


@pytest.mark.parametrize("content", ["gAAAA", "text:x", "text:/w=="])
def test_a_thought_of_another_service_is_refused(content: str) -> None:
    error = refusal(input=[{**THOUGHT, "encrypted_content": content}])
    assert error.param == "input[0].encrypted_content"


def test_parameters_are_those_of_the_chat_request() -> None:
    chat = forwarded(
        tools=[{**TOOL, "description": "Finds.", "strict": True}],
        tool_choice={"type": "function", "name": "find"},
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
    )
    assert chat["model"] == "behind"
    assert chat["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "find",
                "description": "Finds.",
                "parameters": {"type": "object"},
                "strict": True,
            },
        }
    ]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "find"}}
    numbers = ("max_completion_tokens", "temperature", "top_p", "top_logprobs")
    assert [chat[name] for name in numbers] == [9, 0.5, 0.9, 2]
    assert chat["logprobs"] is True


def test_some_of_the_tools_may_be_allowed() -> None:
    tools = [TOOL, {**TOOL, "name": "move"}]
    allowed = [{"type": "function", "name": "move"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": allowed}
    called = asked(tools=tools, tool_choice=choice, parallel_tool_calls=False).chat.called_tools
    assert list(called.force) == ["move"]
    assert not called.parallel


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_every_effort_of_openai_s_is_that_of_the_chat_request(effort: str) -> None:
    assert forwarded(reasoning={"effort": effort})["reasoning_effort"] == effort


@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_is_asked_for_with_its_cost(stream: bool) -> None:
    chat = forwarded(stream=stream)
    assert chat.get("stream_options") == ({"include_usage": True} if stream else None)


def test_formats_are_those_of_the_chat_request() -> None:
    schema = {"type": "object", "properties": {"bed": {"type": "integer"}}}
    wanted = {"type": "json_schema", "name": "place", "schema": schema, "strict": True}
    found = asked(text={"format": wanted, "verbosity": "low"}).chat.answer_format
    assert found == Format("json", schema)
    assert forwarded(text={"format": wanted})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "place", "schema": schema, "strict": True},
    }
    assert asked(text={"format": {"type": "json_object"}}).chat.answer_format == Format(
        "json", {"type": "object"}
    )
    assert asked(text={"format": {"type": "text"}}).chat.answer_format is None


def test_what_was_asked_is_repeated() -> None:
    wanted = {"type": "json_schema", "name": "place", "schema": {"type": "object"}}
    found = asked(
        instructions='Be "brief".',
        tools=[TOOL],
        tool_choice="none",
        text={"format": wanted},
        metadata={"ward": "3"},
        max_output_tokens=9,
        parallel_tool_calls=True,
        user="u",
    )
    echo = json.loads(f"{{{found.echo}}}")
    assert echo["instructions"] == 'Be "brief".'
    assert echo["tools"] == [{**TOOL, "description": None, "strict": None}]
    assert echo["text"]["format"]["schema"] == {"type": "object"}
    assert (echo["metadata"], echo["max_output_tokens"]) == ({"ward": "3"}, 9)
    assert (echo["store"], echo["background"], echo["truncation"]) == (False, False, "disabled")


@pytest.mark.parametrize(
    "more",
    [
        {"store": False},
        {"store": None, "previous_response_id": None, "conversation": None, "background": False},
        {"include": ["reasoning.encrypted_content", "web_search_call.results"]},
        {"truncation": "disabled", "service_tier": "auto", "max_tool_calls": 3},
        {"prompt_cache_key": "k", "safety_identifier": "s", "user": "u"},
        {"client_metadata": {"x-codex-turn-metadata": "{}"}},
        {"reasoning": {"summary": "auto", "generate_summary": None}},
        {"text": {"verbosity": "high"}},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"tools": [], "tool_choice": "auto"},
        {"metadata": {"a": "b"}},
    ],
)
def test_what_changes_nothing_is_taken(more: dict[str, Any]) -> None:
    assert asked(**more).chat.messages


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "x"}}, "moderation"),
        ({"include": ["everything"]}, "include[0]"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "local_shell"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search_preview"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": [7]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type"),
        ({"input": [{**THOUGHT, "encrypted_content": "xyz"}]}, "input[0].encrypted_content"),
        ({"input": [{**CALL, "name": "no name"}]}, "input[0].name"),
        ({"input": [{**CALL, "namespace": "crm"}]}, "input[0].namespace"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": "x", "weight": 1}]}, "input[0].weight"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    error = refusal(**more)
    assert error.param == param


@pytest.mark.parametrize(
    ("more", "remedy"),
    [
        ({"previous_response_id": "x"}, "Send the whole conversation in input."),
        ({"store": True}, "Leave it out, or send false."),
        (
            {"input": [{"type": "item_reference", "id": "x"}]},
            "'input[0]' refers to an item of an earlier response, and this service keeps none: "
            "send the items themselves. Clients that refer to items unless told otherwise have a "
            "setting for it: store: false.",
        ),
    ],
)
def test_a_refusal_of_what_is_kept_says_what_to_send(more: dict[str, Any], remedy: str) -> None:
    assert remedy in refusal(**more).message


@pytest.mark.parametrize(
    ("chat", "here"),
    [
        ("messages[3].content", "input"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("response_format", "text.format"),
        ("max_completion_tokens", "max_output_tokens"),
        ("reasoning_effort", "reasoning.effort"),
        ("tools[2].function.parameters", "tools[2].parameters"),
        ("tool_choice.function.name", "tool_choice.name"),
        ("tool_choice.allowed_tools.mode", "tool_choice.mode"),
        ("temperature", "temperature"),
        (None, None),
    ],
)
def test_a_refusal_of_the_chat_request_names_what_was_sent(chat: str | None, here: str) -> None:
    assert in_our_terms(f"Invalid '{chat}'.", chat) == (f"Invalid '{here}'.", here)


def test_more_messages_than_a_chat_may_have_are_too_long_an_input() -> None:
    error = refusal(input=[{"role": "user", "content": "x"}] * 2049)
    assert error.param == "input"
    assert "'input'" in error.message
