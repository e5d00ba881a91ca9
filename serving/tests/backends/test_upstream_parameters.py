"""Which parameters reach an upstream, and which never do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.schema.body import Body, OnlyAt
from deepseek_serving.http.schema.upstream import Extras
from deepseek_serving.http.upstream_parameters import EXTRAS, LEFT_OUT
from deepseek_serving.http.validation import ENCODED, FORWARDED, ReadEncoded, ReadForwarded

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS, RERANK, SCORE = "/v1/embeddings", "/v1/rerank", "/v1/score"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

# a value for each parameter that an upstream gets, as clients of vLLM and SGLang send it
VALUES: dict[str, Any] = {
    "messages": MESSAGES,
    "prompt": "Hello",
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "logit_bias": {"5": -1.5},
    "seed": 7,
    "n": 4,
    "max_tokens": 9,
    "max_completion_tokens": 9,
    "min_tokens": 2,
    "stop": [str(number) for number in range(16)],
    "stop_token_ids": [1, 2],
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "logprobs": True,
    "top_logprobs": 20,
    "prompt_logprobs": 3,
    "echo": True,
    "length_penalty": 1.2,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "no_stop_trim": True,
    "truncate_prompt_tokens": 100,
    "allowed_token_ids": [1, 5],
    "bad_words": ["no"],
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "add_special_tokens": True,
    "structured_outputs": {"json": {"type": "object"}, "whitespace_pattern": " ?"},
    "regex": "a+",
    "ebnf": 'root ::= "a"',
    "tools": [TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "chat_template_kwargs": {"enable_thinking": False, "custom": [1]},
    "reasoning_effort": "high",
    "include_reasoning": False,
    "separate_reasoning": True,
    "stream_reasoning": False,
    "thinking_token_budget": 100,
    "add_generation_prompt": True,
    "continue_final_message": False,
    "documents": [{"title": "t", "text": "d"}],
    # of encoders
    "input": [[1, 2], [3]],
    "encoding_format": "base64",
    "dimensions": 2,
    "normalize": False,
    "query": "a",
    "top_n": 1,
    "return_documents": False,
    "max_tokens_per_doc": 9,
    "use_activation": False,
    "activation": True,
    "text_1": "a",
    "text_2": ["b", "c"],
}
VALUES_OF: dict[str, dict[str, Any]] = {
    COMPLETION: {"logprobs": 3},
    RERANK: {"documents": ["b", "c"], "truncate_prompt_tokens": -1},
    SCORE: {"truncate_prompt_tokens": -1},
}
# what goes with it, or comes first
ALSO: dict[str, dict[str, Any]] = {
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": [TOOL]},
    "parallel_tool_calls": {"tools": [TOOL]},
    "stream_options": {"stream": True},
    "stream": {"stream_options": {"include_usage": True}},
}
NEEDED: dict[str, tuple[str, ...]] = {
    CHAT: ("messages",),
    COMPLETION: ("prompt",),
    EMBEDDINGS: ("input",),
    RERANK: ("query", "documents"),
    SCORE: ("text_1", "text_2"),
}
SCHEMAS: dict[str, type[Body]] = {
    **{path: schema for path, (schema, _most) in FORWARDED.items()},
    **{path: schema for path, (schema, _param, _most) in ENCODED.items()},
}


# test_upstream_words.py has those that the upstream gets in other words
REWORDED = {"response_format", "enable_thinking", "thinking"} | {
    name for name in Extras.model_fields if name.startswith("guided_")
}


def parameters(path: str) -> list[str]:
    """All that an upstream gets as it was sent, of what the schemas take."""
    own = {
        name
        for name, field in SCHEMAS[path].model_fields.items()
        if name not in LEFT_OUT[path]
        and not any(isinstance(mark, OnlyAt) for mark in field.metadata)
    }
    return sorted((own | set(EXTRAS[path].model_fields)) - REWORDED - {"model"})


def value_of(path: str, name: str) -> Any:
    return VALUES_OF.get(path, {}).get(name, VALUES.get(name))


# what reaches past one request of one client
NEVER: dict[str, Any] = {
    "priority": 1,
    "cache_salt": "of another",
    "extra_key": "x",
    "rid": "1",
    "kv_transfer_params": {"remote_host": "10.0.0.1"},
    "bootstrap_host": "10.0.0.1",
    "bootstrap_room": 1,
    "data_parallel_rank": 1,
    "vllm_xargs": {"a": 1},
    "logits_processors": ["os.system"],
    "custom_logit_processor": "x",
    "custom_params": {},
    "mm_processor_kwargs": {"max_pixels": 10**9},
    "lora_path": "/etc",
    "chat_template": "{{ 1 }}",
    "guided_decoding_backend": "outlines",
    "session_params": {},
    "return_hidden_states": True,
    "use_beam_search": True,
    "input_ids": [1],
}


def forwarded(path: str, *media: str, **more: Any) -> dict[str, Any]:
    """The body for the upstream."""
    sent = {"model": "m", **{name: value_of(path, name) for name in NEEDED[path]}, **more}
    reading: ReadForwarded | ReadEncoded = (
        ReadEncoded(path, "behind")
        if path in ENCODED
        else ReadForwarded(path, "behind", media=media)
    )
    body: dict[str, Any] = json.loads(reading.read(json.dumps(sent).encode()).body)
    return body


def refusal(path: str, *media: str, **more: Any) -> tuple[str | None, str | None]:
    with pytest.raises(RefusedError) as caught:
        forwarded(path, *media, **more)
    return caught.value.param, caught.value.code


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path in SCHEMAS for name in parameters(path)]
)
def test_what_the_upstream_can_do_reaches_it_unchanged(path: str, name: str) -> None:
    value = value_of(path, name)
    assert value is not None, "a parameter without a value to try"
    assert forwarded(path, **ALSO.get(name, {}), **{name: value})[name] == value


@pytest.mark.parametrize("name", NEVER)
@pytest.mark.parametrize("path", SCHEMAS)
def test_what_reaches_past_one_request_is_refused_by_name(path: str, name: str) -> None:
    param, code = refusal(path, **{name: NEVER[name]})
    assert param == name
    assert code in ("unsupported_value", "unknown_parameter")


def test_what_has_no_effect_and_what_is_null_goes_no_further() -> None:
    quiet = {
        "user": "ward-3",
        "metadata": {"patient": "7"},
        "store": False,
        "request_id": "mine",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "service_tier": "auto",
        "cache_salt": None,
        "guided_json": None,
        "temperature": None,
        "priority": 0,
        "vllm_xargs": {},
    }
    assert forwarded(CHAT, **quiet) == {"model": "behind", "messages": MESSAGES}


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        (CHAT, {"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize"),
        (
            CHAT,
            {"chat_template_kwargs": {"chat_template": "x"}},
            "chat_template_kwargs.chat_template",
        ),
        (CHAT, {"chat_template_kwargs": {str(n): n for n in range(65)}}, "chat_template_kwargs"),
        (CHAT, {"structured_outputs": {"backend": "x"}}, "structured_outputs.backend"),
        (CHAT, {"structured_outputs": {"regex": "a" * 5001}}, "structured_outputs.regex"),
        (CHAT, {"guided_choice": []}, "guided_choice"),
        (CHAT, {"guided_choice": ["a", 1]}, "guided_choice[1]"),
        (CHAT, {"guided_grammar": "a" * (2**16 + 1)}, "guided_grammar"),
        (CHAT, {"skip_special_tokens": "yes"}, "skip_special_tokens"),
        (COMPLETION, {"prompt_logprobs": -1}, "prompt_logprobs"),
        (COMPLETION, {"allowed_token_ids": [-1]}, "allowed_token_ids[0]"),
        (COMPLETION, {"chat_template_kwargs": {}}, "chat_template_kwargs"),
        (CHAT, {"documents": [{"text": 1}]}, "documents[0].text"),
    ],
)
def test_what_is_wrong_with_it_is_said_by_name(path: str, more: Any, param: str) -> None:
    assert refusal(path, **more)[0] == param


def test_completions_may_ask_for_a_format() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    for path in (CHAT, COMPLETION):
        assert forwarded(path, response_format=wanted)["response_format"] == wanted
        wrong = {"type": "json_schema", "json_schema": {"schema": 1}}
        param, _code = refusal(path, response_format=wrong)
        assert param == "response_format.json_schema.schema"
    both = forwarded(CHAT, response_format=wanted, tools=[TOOL])
    assert (both["response_format"], both["tools"]) == (wanted, [TOOL])


def content(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def test_media_reach_an_upstream_whose_model_takes_them_and_no_other() -> None:
    text = {"type": "text", "text": "What is this?"}
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    film = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    sent = content(IMAGE, text)
    assert forwarded(CHAT, "image", **sent)["messages"] == sent["messages"]
    sent = content(text, audio, film, IMAGE)
    everything = ("image", "audio", "video")
    assert forwarded(CHAT, *everything, **sent)["messages"] == sent["messages"]
    for part in (IMAGE, audio, film):
        assert refusal(CHAT, **content(text, part)) == (
            "messages[0].content[1].type",
            "invalid_value",
        )
    assert refusal(CHAT, "image", **content(audio))[0] == "messages[0].content[0].type"


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/x.png",
        "https://example.org/x.png",
        "file:///etc/passwd",
        "//x",
        "",
        " data:",
        "DATA:image/png;base64,AAAA",
    ],
)
def test_nothing_is_fetched_for_a_client(url: str) -> None:
    """A server would ask other hosts, and read its own files, in the client's name."""
    part = {"type": "image_url", "image_url": {"url": url}}
    param = "messages[0].content[0].image_url.url"
    assert refusal(CHAT, "image", **content(part)) == (param, "unsupported_value")


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url"}, "image_url"),
        ({"type": "image_url", "image_url": "data:,"}, "image_url"),
        ({"type": "image_url", "image_url": {"url": 1}}, "image_url.url"),
        ({**IMAGE, "uuid": "of another's image"}, "uuid"),
    ],
)
def test_a_medium_of_another_form_is_refused(part: Any, param: str) -> None:
    found, _code = refusal(CHAT, "image", **content(part))
    assert found == f"messages[0].content[0].{param}"


def test_media_are_bounded_and_cost_what_they_may() -> None:
    assert refusal(CHAT, "image", **content(*[IMAGE] * 17))[0] == "messages"
    large = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    sent = {"model": "m", **content(large), "max_tokens": 5}
    asked = ReadForwarded(CHAT, "behind", media=("image",)).read(json.dumps(sent).encode())
    # not by the bytes of its base64
    assert 1000 <= asked.reserved < 1100


def test_no_body_but_an_object_gets_so_far() -> None:
    for body in (b"[]", b"null", b'"x"', b'{"messages": 1}', b'{"messages": [1]}'):
        for path in (CHAT, COMPLETION):
            with pytest.raises(RefusedError):
                ReadForwarded(path, "behind", media=("image",)).read(body)
