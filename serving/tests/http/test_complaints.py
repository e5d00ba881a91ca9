"""A refusal says what was given and what is accepted, and names the place by a JSON path."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.schema.body import MOST_MEMBERS
from deepseek_serving.http.validation import ReadChat, ReadCompletion, ReadEmbedding, Reading

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a"}]}


def read(reading: Reading, body: object) -> Any:
    return reading.read(json.dumps(body).encode())


def refusal(reading: Reading, body: object) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        read(reading, body)
    # names of branches and validators, as code has them
    for word in ("constrained", "Annotated", "function-", "a valid ", "instance of"):
        assert word not in caught.value.message
    return caught.value


def user(content: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


TEXT, IMAGE = {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"n": True}, "n", "expected an integer, but got a boolean"),
        ({"temperature": "0.5"}, "temperature", "expected a number, but got a string"),
        ({"temperature": True}, "temperature", "expected a number, but got a boolean"),
        ({"temperature": 3}, "temperature", "expected at most 2, but got 3"),
        ({"stream": 1}, "stream", "expected a boolean, but got an integer"),
        ({"stream": "true"}, "stream", "expected a boolean, but got a string"),
        ({"max_tokens": 5.5}, "max_tokens", "expected an integer, but got a number"),
        ({"max_tokens": 0}, "max_tokens", "expected at least 1, but got 0"),
        ({"user": 5}, "user", "expected a string, but got an integer"),
        ({"seed": 2**63}, "seed", "expected less than"),
        ({"stop": ["a"] * 17}, "stop", "expected at most 16 items, but got 17"),
        ({"stop": 5}, "stop", "expected a string or an array, but got an integer"),
        ({"stop": ["a", 5]}, "stop[1]", "expected a string, but got an integer"),
        ({"stop": "x" * 300}, "stop", "expected at most 256 characters, but got 300"),
        ({"stop": ["a", None]}, "stop[1]", "expected a string, but got null"),
        ({"messages": "a"}, "messages", "expected an array, but got a string"),
        ({"messages": []}, "messages", "expected at least 1 item, but got 0"),
        ({"messages": None}, "messages", "Missing required parameter"),
        ({"messages": [5]}, "messages[0]", "expected an object, but got an integer"),
        ({"messages": [{"role": "x"}]}, "messages[0].role", "'assistant' or 'tool', but got 'x'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "a message needs content"),
        (user(5), "messages[0].content", "expected a string or an array, but got an integer"),
        (user([0]), "messages[0].content[0]", "expected an object, but got an integer"),
        (user([TEXT, IMAGE]), "messages[0].content[1].type", "takes text only"),
        (user([TEXT, IMAGE]), "messages[0].content[1].type", "'messages[0].content[1]' is a part"),
        (user([TEXT, {"type": "text"}]), "messages[0].content[1].text", "Missing required"),
        (user([{**TEXT, "colour": 1}]), "messages[0].content[0].colour", "Unrecognized"),
        ({"tools": [5]}, "tools[0]", "expected an object, but got an integer"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "Missing required parameter"),
        ({"tools": [None]}, "tools[0]", "expected an object, but got null"),
        ({"tool_choice": "foo"}, "tool_choice", "but got 'foo'"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "Missing required"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"response_format": {"type": "foo"}}, "response_format.type", "but got 'foo' instead"),
        ({"response_format": {}}, "response_format.type", "Missing required parameter"),
        ({"response_format": "json"}, "response_format", "expected an object, but got a string"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": 5, "schema": {}}}},
            "response_format.json_schema.name",
            "expected a string, but got an integer",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
            "Missing required parameter",
        ),
        ({"stream_options": {"x": 1}}, "stream_options.x", "Unrecognized request argument"),
        ({"stream_options": 5}, "stream_options", "expected an object, but got an integer"),
        ({"logit_bias": {"5": True}}, "logit_bias.5", "expected a number, but got a boolean"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "'a' is not the number of a token"),
        ({"logit_bias": {"5": 500}}, "logit_bias", "between -100 and 100"),
        ({"best_of": True}, "best_of", "not supported here, except as 1"),
        ({"audio": {"voice": "a"}}, "audio", "not supported here"),
        ({"modalities": ["text", "audio"]}, "modalities", 'except as ["text"]'),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
        ({"colour": "red"}, "colour", "Unrecognized request argument supplied: colour"),
        ({"verbosity": "x"}, "verbosity", "'medium' or 'high', but got 'x'"),
        ({"metadata": 5}, "metadata", "expected an object, but got an integer"),
    ],
)
def test_of_a_chat(change: dict[str, Any], param: str, message: str) -> None:
    found = refusal(ReadChat(), {**CHAT, **change})
    assert found.param == param
    assert message in found.message


@pytest.mark.parametrize(
    ("prompt", "param", "message"),
    [
        ([], "prompt", "expected at least 1 item, but got 0"),
        ([5.5], "prompt[0]", "expected an integer, but got a number"),
        (["a", 5], "prompt[1]", "expected a string, but got an integer"),
        ([5, "a"], "prompt[1]", "expected an integer, but got a string"),
        ([[5], "a"], "prompt[1]", "expected an array, but got a string"),
        ([["1"]], "prompt[0][0]", "expected an integer, but got a string"),
        ([[True]], "prompt[0][0]", "expected an integer, but got a boolean"),
        ([True], "prompt[0]", "expected an integer, but got a boolean"),
        ([[5], []], "prompt[1]", "expected at least 1 item, but got 0"),
        ([[5, -1]], "prompt[0][1]", "expected at least 0, but got -1"),
        (5, "prompt", "expected a string, an array of strings"),
        ({}, "prompt", "expected a string, an array of strings"),
        (["a"] * 17, "prompt", "expected at most 16 items, but got 17"),
        (None, "prompt", "Missing required parameter: 'prompt'"),
    ],
)
def test_of_a_prompt(prompt: object, param: str, message: str) -> None:
    found = refusal(ReadCompletion(), {"model": "m", "prompt": prompt})
    assert found.param == param
    assert message in found.message


def test_of_too_many_inputs() -> None:
    found = refusal(ReadEmbedding(), {"model": "m", "input": ["a"] * 2049})
    assert found.param == "input"
    assert "expected at most 2048 items, but got 2049" in found.message


@pytest.mark.parametrize("body", [5, [], "a", None, True])
def test_of_a_body_that_is_no_object(body: object) -> None:
    assert "expected an object" in refusal(ReadChat(), body).message


@pytest.mark.parametrize(
    "change",
    [
        {"audio": None, "functions": None, "tools": None, "stop": None, "logit_bias": None},
        {"function_call": "none", "functions": [], "tools": [], "modalities": ["text"]},
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "safety_identifier": "s"},
        {"service_tier": "auto", "verbosity": "low", "store": False, "metadata": {"a": "b"}},
        {"stream_options": {"include_usage": None, "include_obfuscation": False}},
        {"prediction": {"type": "content", "content": "a"}, "user": "u"},
        {"best_of": 1, "use_beam_search": False, "length_penalty": 1.0, "priority": 0},
        {"skip_special_tokens": True, "spaces_between_special_tokens": False, "bad_words": []},
        {"stop": [str(number) for number in range(16)]},
        # JSON has one kind of numbers
        {"max_tokens": 5.0, "n": 1.0, "seed": 7.0, "top_k": -1.0},
        {
            "messages": [
                {"role": "user", "content": [{**TEXT, "cache_control": None}], "name": None}
            ]
        },
    ],
)
def test_what_asks_for_nothing_is_taken(change: dict[str, Any]) -> None:
    assert read(ReadChat(), {**CHAT, **change}).model == "m"


def test_a_whole_number_is_read_whatever_it_is_written_as() -> None:
    assert read(ReadChat(), {**CHAT, "max_tokens": 5.0}).options().max_tokens == 5
    assert list(read(ReadCompletion(), {"model": "m", "prompt": [5.0, 6]}).prompts[0]) == [5, 6]


def test_of_many_unknown_members_of_an_inner_object_one_is_named() -> None:
    options = {"include_usage": True, **{f"k{number}": 1 for number in range(MOST_MEMBERS)}}
    found = refusal(ReadChat(), {**CHAT, "stream_options": options})
    assert (found.param, found.code) == ("stream_options.k0", "unknown_parameter")
