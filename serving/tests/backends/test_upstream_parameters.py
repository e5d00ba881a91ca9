"""Which parameters reach an upstream, and which never do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.schema.upstream import ChatExtras, Extras
from deepseek_serving.http.validation import ReadForwarded

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

# as clients of vLLM and SGLang send them
OF_BOTH: dict[str, Any] = {
    "min_tokens": 2,
    "stop_token_ids": [1, 2],
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "length_penalty": 1.2,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "truncate_prompt_tokens": 100,
    "allowed_token_ids": [1, 5],
    "bad_words": ["no"],
    "prompt_logprobs": 3,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "add_special_tokens": True,
    "structured_outputs": {"json": {"type": "object"}, "whitespace_pattern": " ?"},
    "regex": "a+",
    "ebnf": 'root ::= "a"',
    "no_stop_trim": True,
    "top_k": 20,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
}
OF_CHAT: dict[str, Any] = {
    "chat_template_kwargs": {"enable_thinking": False, "custom": [1]},
    "reasoning_effort": "high",
    "include_reasoning": False,
    "separate_reasoning": True,
    "stream_reasoning": False,
    "thinking_token_budget": 100,
    "add_generation_prompt": True,
    "continue_final_message": False,
    "echo": True,
    "documents": [{"title": "t", "text": "d"}],
    "tools": [TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "logprobs": True,
    "top_logprobs": 20,
    "n": 4,
    "stop": [str(number) for number in range(16)],
}
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
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "Hello"}
    sent = {"model": "m", **prompt, **more}
    reading = ReadForwarded(path, "behind", media=media)
    body: dict[str, Any] = json.loads(reading.read(json.dumps(sent).encode()).body)
    return body


def refusal(path: str, *media: str, **more: Any) -> tuple[str | None, str | None]:
    with pytest.raises(RefusedError) as caught:
        forwarded(path, *media, **more)
    return caught.value.param, caught.value.code


@pytest.mark.parametrize("name", [*OF_BOTH, *OF_CHAT])
def test_what_the_upstream_can_do_reaches_it_unchanged(name: str) -> None:
    value = {**OF_BOTH, **OF_CHAT}[name]
    also: dict[str, Any] = {"logprobs": True} if name == "top_logprobs" else {}
    also |= {"tools": [TOOL]} if name in ("tool_choice", "parallel_tool_calls") else {}
    assert forwarded(CHAT, **also, **{name: value})[name] == value
    if name in OF_BOTH:
        assert forwarded(COMPLETION, **{name: value})[name] == value


def test_every_parameter_of_the_list_is_tried() -> None:
    # tests/backends/test_upstream_words.py has those that the upstream gets in other words
    elsewhere = {"response_format", "enable_thinking"}
    guided = {name for name in Extras.model_fields if name.startswith("guided_")}
    assert set(Extras.model_fields) - elsewhere - guided <= set(OF_BOTH)
    assert set(ChatExtras.model_fields) - set(Extras.model_fields) - elsewhere <= set(OF_CHAT)


@pytest.mark.parametrize("name", NEVER)
@pytest.mark.parametrize("path", [CHAT, COMPLETION])
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
