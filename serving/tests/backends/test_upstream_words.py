"""What vLLM and SGLang would pass over, or refuse, reaches them in words that they act on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.validation import ReadForwarded, ReadResponse

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "Hello"}
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
HELD = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA},
    }
}
GRAMMAR = 'root ::= "a"'


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def forwarded(path: str, *, developer: bool = True, **more: Any) -> dict[str, Any]:
    """What the upstream gets beside its name for the model and, unless they are given, a prompt."""
    prompt = {"messages": [USER]} if path == CHAT else {"prompt": "Hello"}
    sent = {"model": "m", **prompt, **more}
    reading = ReadForwarded(path, "behind", developer=developer)
    body: dict[str, Any] = json.loads(reading.read(json.dumps(sent).encode()).body)
    assert body.pop("model") == "behind"
    return {name: value for name, value in body.items() if name in more or name not in prompt}


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"guided_json": SCHEMA}, HELD),
        ({"guided_json": json.dumps(SCHEMA)}, HELD),
        ({"structured_outputs": {"json": SCHEMA}}, HELD),
        ({"structured_outputs": {"json": json.dumps(SCHEMA), "regex": None}}, HELD),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, HELD),
        (HELD, HELD),
        (
            {"structured_outputs": {"json_object": True}},
            {"response_format": {"type": "json_object"}},
        ),
        ({"guided_regex": "a+"}, {"structured_outputs": {"regex": "a+"}, "regex": "a+"}),
        ({"regex": "a+"}, {"structured_outputs": {"regex": "a+"}, "regex": "a+"}),
        (
            {"structured_outputs": {"regex": "a+"}},
            {"structured_outputs": {"regex": "a+"}, "regex": "a+"},
        ),
        (
            {"guided_choice": ["yes (1.5)", "no"]},
            {
                "structured_outputs": {"choice": ["yes (1.5)", "no"]},
                "regex": r"(yes \(1\.5\)|no)",
            },
        ),
        (
            {"guided_grammar": GRAMMAR},
            {"structured_outputs": {"grammar": GRAMMAR}, "ebnf": GRAMMAR},
        ),
        ({"ebnf": GRAMMAR}, {"structured_outputs": {"grammar": GRAMMAR}, "ebnf": GRAMMAR}),
        (
            {"guided_json": SCHEMA, "guided_whitespace_pattern": " ?"},
            {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " ?"}},
        ),
        ({"temperature": 1, "top_p": 0}, {"temperature": 1, "top_k": 1}),
        ({"temperature": 0, "n": 2}, {"temperature": 1, "top_k": 1, "n": 2}),
        ({"temperature": 0, "n": 1}, {"temperature": 0, "n": 1}),
    ],
)
def test_it_is_said_so_that_servers_act_on_it(path: str, sent: Any, said: Any) -> None:
    assert forwarded(path, **sent) == said


SWITCHED_OFF = {"enable_thinking": False, "thinking": False}
ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {
        "mode": "required",
        "tools": [{"type": "function", "function": {"name": "b"}}],
    },
}


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"enable_thinking": False}, {"chat_template_kwargs": SWITCHED_OFF}),
        ({"thinking": False}, {"chat_template_kwargs": SWITCHED_OFF}),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": SWITCHED_OFF}),
        (
            {"thinking": {"type": "enabled"}, "chat_template_kwargs": {"custom": 1}},
            {"chat_template_kwargs": {"enable_thinking": True, "thinking": True, "custom": 1}},
        ),
        (
            {"enable_thinking": True, "chat_template_kwargs": {"thinking": False}},
            {"chat_template_kwargs": {"thinking": False}},
        ),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"tool_choice": "none"}, {}),
        (
            {"tools": [tool("a"), tool("b")], "tool_choice": ALLOWED},
            {"tools": [tool("b")], "tool_choice": "required"},
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": "H", "prefix": True}]},
            {
                "messages": [USER, {"role": "assistant", "content": "H"}],
                "continue_final_message": True,
                "add_generation_prompt": False,
            },
        ),
        (
            {
                "messages": [USER, {"role": "assistant", "content": "H"}],
                "continue_final_message": True,
            },
            {
                "messages": [USER, {"role": "assistant", "content": "H"}],
                "continue_final_message": True,
                "add_generation_prompt": False,
            },
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": None, "refusal": "No."}, USER]},
            {"messages": [USER, {"role": "assistant", "content": "No."}, USER]},
        ),
    ],
)
def test_a_conversation_is_said_so_that_servers_act_on_it(sent: Any, said: Any) -> None:
    assert forwarded(CHAT, **sent) == said


def test_a_developers_message_is_the_systems_where_the_template_knows_no_other() -> None:
    messages = [{"role": "developer", "content": "Be brief."}, USER]
    told = {"messages": [{"role": "system", "content": "Be brief."}, USER]}
    assert forwarded(CHAT, developer=False, messages=messages) == told
    assert forwarded(CHAT, messages=messages) == {"messages": messages}


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_an_answer_is_held_to_one_format(sent: Any, param: str) -> None:
    for path in (CHAT, COMPLETION):
        with pytest.raises(RefusedError) as caught:
            forwarded(path, **sent)
        assert caught.value.param == param


def test_a_schema_that_is_no_json_is_refused_here() -> None:
    with pytest.raises(RefusedError) as caught:
        forwarded(CHAT, guided_json="{")
    assert caught.value.param == "guided_json"


def test_a_response_is_said_in_the_same_words() -> None:
    reading = ReadResponse(ReadForwarded(CHAT, "behind", developer=False))
    body = {"model": "m", "input": [{"role": "developer", "content": "Be brief."}], "tools": []}
    asked = json.loads(reading.read(json.dumps(body).encode()).chat.body)
    assert asked["messages"][0]["role"] == "system"
    assert "tools" not in asked
