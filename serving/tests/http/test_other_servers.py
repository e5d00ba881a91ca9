"""What clients of vLLM, SGLang and llama.cpp's server have come to rely on, asked of ours.

Parameters, validation, streaming and usage, in the words of this API. Everything is asked of one
running service.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support import MODEL

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "What is a release?"}
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "messages": [USER], "max_tokens": 4, "temperature": 0},
    COMPLETIONS: {"model": MODEL, "prompt": "What is", "max_tokens": 4, "temperature": 0},
    "/tokenize": {"prompt": "What is a release?"},
    "/detokenize": {"tokens": [5, 6, 7]},
}
TOOL = {"type": "function", "function": {"name": "weather"}}
HELD: dict[str, Any] = {"type": "json_object"}
LONG = "many words " * 400


def post(client: httpx.Client, path: str, **change: Any) -> httpx.Response:
    return client.post(path, json={**BASE[path], **change})


def answer(client: httpx.Client, path: str, **change: Any) -> dict[str, Any]:
    reply = post(client, path, **change)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def text(client: httpx.Client, path: str, **change: Any) -> str:
    (choice,) = answer(client, path, **change)["choices"]
    return str(choice["text"] if path == COMPLETIONS else choice["message"]["content"])


def events(client: httpx.Client, path: str, **change: Any) -> list[dict[str, Any]]:
    lines = post(client, path, stream=True, **change).text.splitlines()
    data = [line.removeprefix("data: ") for line in lines if line]
    assert data[-1] == "[DONE]"
    return [json.loads(event) for event in data[:-1]]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"temperature": -0.1}, "temperature"),
    (CHAT, {"temperature": 2.1}, "temperature"),
    (CHAT, {"temperature": "hot"}, "temperature"),
    (CHAT, {"top_p": -0.1}, "top_p"),
    (CHAT, {"top_p": 1.1}, "top_p"),
    (CHAT, {"top_k": -2}, "top_k"),
    (CHAT, {"top_k": 1.5}, "top_k"),
    (CHAT, {"min_p": 1.1}, "min_p"),
    (CHAT, {"min_p": -0.1}, "min_p"),
    (CHAT, {"presence_penalty": 2.5}, "presence_penalty"),
    (CHAT, {"frequency_penalty": -2.5}, "frequency_penalty"),
    (CHAT, {"repetition_penalty": 0}, "repetition_penalty"),
    (CHAT, {"n": 0}, "n"),
    (CHAT, {"n": -1}, "n"),
    (CHAT, {"n": "2"}, "n"),
    (CHAT, {"max_tokens": -1}, "max_tokens"),
    (CHAT, {"max_tokens": "4"}, "max_tokens"),
    (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens"),
    (CHAT, {"min_tokens": 5}, "min_tokens"),
    (CHAT, {"min_tokens": -1}, "min_tokens"),
    (CHAT, {"logprobs": 5}, "logprobs"),
    (CHAT, {"top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    (COMPLETIONS, {"logprobs": -1}, "logprobs"),
    (COMPLETIONS, {"logprobs": True}, "logprobs"),
    (COMPLETIONS, {"logprobs": 21}, "logprobs"),
    (COMPLETIONS, {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    (COMPLETIONS, {"prompt_logprobs": -1}, "prompt_logprobs"),
    (CHAT, {"prompt_logprobs": -1}, "prompt_logprobs"),
    (CHAT, {"logit_bias": {"hello": 1}}, "logit_bias"),
    (CHAT, {"logit_bias": {"1.5": 1}}, "logit_bias"),
    (CHAT, {"logit_bias": {"-1": 1}}, "logit_bias"),
    (CHAT, {"logit_bias": {"5": 101}}, "logit_bias"),
    (CHAT, {"logit_bias": {"999999": 1}}, "logit_bias"),
    (CHAT, {"logit_bias": [1, 2]}, "logit_bias"),
    (CHAT, {"stop": [""]}, "stop[0]"),
    (CHAT, {"stop": [1]}, "stop[0]"),
    (CHAT, {"stop_token_ids": ["a"]}, "stop_token_ids[0]"),
    (CHAT, {"ignore_eos": "yes"}, "ignore_eos"),
    (CHAT, {"seed": "one"}, "seed"),
    (CHAT, {"seed": 2**63}, "seed"),
    (CHAT, {"seed": -(2**63) - 1}, "seed"),
    (CHAT, {"stream": "yes"}, "stream"),
    (CHAT, {"stream_options": {"include_costs": True}}, "stream_options.include_costs"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": None}, "messages"),
    (CHAT, {"messages": "Hello"}, "messages"),
    (CHAT, {"messages": [123]}, "messages[0]"),
    (CHAT, {"messages": [{}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": 123, "content": "a"}]}, "messages[0].role"),
    (CHAT, {"messages": [USER, {}]}, "messages[1].role"),
    (CHAT, {"messages": [{"role": "pirate", "content": "a"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"content": "a"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": 123}]}, "messages[0].content"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
    ),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        "messages[0].content[0].type",
    ),
    (CHAT, {"messages": [{"role": "user", "content": LONG}]}, "messages"),
    (CHAT, {"tools": "weather"}, "tools"),
    (CHAT, {"tools": [{"type": "function"}]}, "tools[0].function"),
    (CHAT, {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (CHAT, {"tool_choice": TOOL}, "tool_choice"),
    (CHAT, {"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
    (CHAT, {"tools": [TOOL], "tool_choice": 123}, "tool_choice"),
    (CHAT, {"tools": [{**TOOL, "type": "retrieval"}]}, "tools[0].type"),
    (CHAT, {"structured_outputs": 3}, "structured_outputs"),
    (CHAT, {"structured_outputs": {"regex": {"1": "a"}}}, "structured_outputs.regex"),
    (CHAT, {"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs"),
    (CHAT, {"response_format": {"type": "json_object", "schema": 123}}, "response_format.schema"),
    (CHAT, {"response_format": HELD | {"schema": {"type": "hiccup"}}}, "response_format"),
    (CHAT, {"response_format": HELD | {"schema": {"type": 123}}}, "response_format"),
    (CHAT, {"guided_grammar": 'root ::= "a'}, "guided_grammar"),
    (CHAT, {"response_format": {"type": "xml"}}, "response_format.type"),
    (CHAT, {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (CHAT, {"echo": True}, "echo"),
    (CHAT, {"best_of": 2}, "best_of"),
    (CHAT, {"use_beam_search": True}, "use_beam_search"),
    (CHAT, {"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
    (CHAT, {"skip_special_tokens": False}, "skip_special_tokens"),
    (CHAT, {"favourite": 1}, "favourite"),
    (COMPLETIONS, {"suffix": "the end"}, "suffix"),
    (COMPLETIONS, {"prompt": None}, "prompt"),
    (COMPLETIONS, {"prompt": []}, "prompt"),
    (COMPLETIONS, {"prompt": ""}, "prompt"),
    (COMPLETIONS, {"prompt": [[]]}, "prompt[0]"),
    (COMPLETIONS, {"prompt": [-1]}, "prompt[0]"),
    (COMPLETIONS, {"prompt": [999_999]}, "prompt"),
    (COMPLETIONS, {"prompt": ["a", 5]}, "prompt[1]"),
    (COMPLETIONS, {"prompt": {"text": "a"}}, "prompt"),
    (COMPLETIONS, {"prompt": LONG}, "prompt"),
    (COMPLETIONS, {"messages": [USER]}, "messages"),
    ("/tokenize", {"prompt": 5}, "prompt"),
    ("/tokenize", {"prompt": None}, "prompt"),
    ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ("/detokenize", {"tokens": [999_999]}, "tokens"),
    ("/detokenize", {"tokens": None}, "tokens"),
]


@pytest.mark.parametrize(("path", "change", "param"), REFUSED)
def test_is_refused_and_named(
    client: httpx.Client, path: str, change: dict[str, Any], param: str
) -> None:
    reply = post(client, path, **change)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"nonsense", b'{"a":1'])
def test_what_is_no_json_object_is_refused(client: httpx.Client, content: bytes) -> None:
    reply = client.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("path", BASE)
def test_another_model_is_not_found(client: httpx.Client, path: str) -> None:
    reply = post(client, path, model="gpt-4")
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    "change",
    [
        {"top_k": -1, "top_p": 1, "min_p": 0},
        {"stop": None, "seed": None, "logit_bias": None, "n": None, "stream": None},
        {"stop": [], "logit_bias": {}, "user": "somebody"},
        {"presence_penalty": 2, "frequency_penalty": -2, "repetition_penalty": 1.1},
        {"temperature": 2, "seed": -1},
        {"stream_options": None, "logprobs": None, "ignore_eos": False, "min_tokens": 0},
        {"stream_options": {"include_usage": True}, "stream": False},
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_is_taken(client: httpx.Client, path: str, change: dict[str, Any]) -> None:
    assert answer(client, path, **change)["usage"]["completion_tokens"] >= 1


Check = Callable[[httpx.Client], bool]


def _usage_adds_up(client: httpx.Client) -> bool:
    usage = answer(client, CHAT)["usage"]
    return bool(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"])


def _several(client: httpx.Client) -> bool:
    one, two = answer(client, CHAT), answer(client, CHAT, n=2)
    prompts = one["usage"]["prompt_tokens"] == two["usage"]["prompt_tokens"]
    return bool(prompts) and [choice["index"] for choice in two["choices"]] == [0, 1]


def _batch(client: httpx.Client) -> bool:
    both = answer(client, COMPLETIONS, prompt=["What is", "Who signs"])
    alone = [text(client, COMPLETIONS, prompt=prompt) for prompt in ("What is", "Who signs")]
    return [choice["text"] for choice in both["choices"]] == alone


def _tokens_are_the_prompt(client: httpx.Client) -> bool:
    tokens = client.post("/tokenize", json={"prompt": "What is"}).json()["tokens"]
    return text(client, COMPLETIONS, prompt=tokens) == text(client, COMPLETIONS)


def _count_is_usage(client: httpx.Client) -> bool:
    counted = client.post("/tokenize", json={"messages": [USER]}).json()["count"]
    return bool(counted == answer(client, CHAT)["usage"]["prompt_tokens"])


def _back(client: httpx.Client) -> bool:
    asked = {"prompt": "What is a release?", "add_special_tokens": False}
    tokens = client.post("/tokenize", json=asked).json()["tokens"]
    return bool(
        client.post("/detokenize", json={"tokens": tokens}).json()["prompt"] == asked["prompt"]
    )


def _names_of_tokens(client: httpx.Client) -> bool:
    reply = client.post("/tokenize", json={"prompt": "What is", "return_token_strs": True}).json()
    return bool(len(reply["token_strs"]) == reply["count"] == len(reply["tokens"]))


def _bias_forces(client: httpx.Client) -> bool:
    forced = client.post("/tokenize", json={"prompt": "a", "add_special_tokens": False}).json()
    (token,) = forced["tokens"]
    return text(client, COMPLETIONS, logit_bias={str(token): 100}, max_tokens=3) == "aaa"


def _stops_at_token(client: httpx.Client) -> bool:
    whole = text(client, CHAT)
    logged = answer(client, CHAT, logprobs=True)["choices"][0]["logprobs"]["content"]
    asked = {"prompt": logged[2]["token"], "add_special_tokens": False}
    (token,) = client.post("/tokenize", json=asked).json()["tokens"]
    cut = answer(client, CHAT, stop_token_ids=[token])["choices"][0]
    kept = text(client, CHAT, stop_token_ids=[token], include_stop_str_in_output=True)
    shown = cut["message"]["content"]
    return (
        whole.startswith(kept)
        and kept == shown + logged[2]["token"]
        and cut["finish_reason"] == "stop"
    )


def _stop_string(client: httpx.Client) -> bool:
    cut = text(client, CHAT, stop=" small", max_tokens=16)
    kept = text(client, CHAT, stop=" small", max_tokens=16, include_stop_str_in_output=True)
    return cut == "A release is a" and kept == "A release is a small"


def _no_early_end(client: httpx.Client) -> bool:
    ended = answer(client, CHAT, max_tokens=60)["usage"]["completion_tokens"]
    goes_on = answer(client, CHAT, max_tokens=60, min_tokens=ended + 5)["usage"]
    full = answer(client, CHAT, max_tokens=60, ignore_eos=True)
    return bool(
        ended < 50
        and goes_on["completion_tokens"] >= ended + 5
        and full["usage"]["completion_tokens"] == 60
        and full["choices"][0]["finish_reason"] == "length"
    )


def _logprobs_of_each(client: httpx.Client) -> bool:
    reply = answer(client, CHAT, logprobs=True, top_logprobs=3)
    content = reply["choices"][0]["logprobs"]["content"]
    return len(content) == 4 and all(len(token["top_logprobs"]) == 3 for token in content)


def _likeliest_first(client: httpx.Client) -> bool:
    content = answer(client, CHAT, logprobs=True, top_logprobs=3)["choices"][0]["logprobs"][
        "content"
    ]
    return all(token["logprob"] == token["top_logprobs"][0]["logprob"] for token in content)


def _stream_is_the_answer(client: httpx.Client) -> bool:
    deltas = [event["choices"][0]["delta"] for event in events(client, CHAT)]
    joined = "".join(delta.get("content") or "" for delta in deltas)
    return joined == text(client, CHAT) and deltas[0].get("role") == "assistant"


def _text_stream_is_the_answer(client: httpx.Client) -> bool:
    parts = [event["choices"][0]["text"] for event in events(client, COMPLETIONS)]
    return "".join(parts) == text(client, COMPLETIONS)


def _one_end(client: httpx.Client) -> bool:
    found = [event["choices"][0]["finish_reason"] for event in events(client, CHAT)]
    return found[-1] == "length" and not any(found[:-1])


def _one_id(client: httpx.Client) -> bool:
    found = events(client, CHAT)
    names = {(event["id"], event["object"], event["created"], event["model"]) for event in found}
    ((name, kind, _created, model),) = names
    return bool(name.startswith("chatcmpl-") and (kind, model) == ("chat.completion.chunk", MODEL))


def _usage_last(client: httpx.Client) -> bool:
    *others, last = events(client, CHAT, stream_options={"include_usage": True})
    silent = all(event["usage"] is None for event in others)
    return bool(silent and last["choices"] == [] and last["usage"]["completion_tokens"] == 4)


def _no_usage(client: httpx.Client) -> bool:
    return not any("usage" in event for event in events(client, CHAT))


def _usage_in_each(client: httpx.Client) -> bool:
    options = {"include_usage": True, "continuous_usage_stats": True}
    found = [event["usage"] for event in events(client, CHAT, stream_options=options)]
    counts = [usage["completion_tokens"] for usage in found]
    whole = all(u["total_tokens"] == u["prompt_tokens"] + u["completion_tokens"] for u in found)
    return whole and counts == sorted(counts) and counts[-1] == 4


def _empty_options(client: httpx.Client) -> bool:
    return not any(event.get("usage") for event in events(client, CHAT, stream_options={}))


def _no_alternatives(client: httpx.Client) -> bool:
    chosen = answer(client, CHAT, logprobs=True, top_logprobs=0)["choices"][0]["logprobs"]
    listed = answer(client, COMPLETIONS, logprobs=0)["choices"][0]["logprobs"]
    return (
        all(token["top_logprobs"] == [] for token in chosen["content"])
        and len(listed["token_logprobs"]) == len(listed["tokens"])
        and all(len(best) == 1 for best in listed["top_logprobs"])
    )


def _tokens_join(client: httpx.Client) -> bool:
    (choice,) = answer(client, CHAT, logprobs=True, top_logprobs=2)["choices"]
    tokens = choice["logprobs"]["content"]
    joined = b"".join(bytes(token["bytes"]) for token in tokens)
    return bool(joined.decode() == choice["message"]["content"]) and all(
        token["logprob"] <= 0 for token in tokens
    )


def _echoes(client: httpx.Client) -> bool:
    prompts = ["What is", "Who signs"]
    found = answer(client, COMPLETIONS, prompt=prompts, echo=True, n=2)["choices"]
    begins = [prompt for prompt in prompts for _number in range(2)]
    return [c["index"] for c in found] == [0, 1, 2, 3] and all(
        choice["text"].startswith(begin) for choice, begin in zip(found, begins, strict=True)
    )


def _streamed_echo(client: httpx.Client) -> bool:
    found = events(client, COMPLETIONS, echo=True)
    joined = "".join(event["choices"][0]["text"] for event in found)
    return joined == text(client, COMPLETIONS, echo=True)


def _after_refusals(client: httpx.Client) -> bool:
    refused = [post(client, CHAT, top_logprobs=30, logprobs=True, stream=s) for s in (False, True)]
    return [reply.status_code for reply in refused] == [400, 400] and bool(text(client, CHAT))


def _parts_are_text(client: httpx.Client) -> bool:
    parts = [{"type": "text", "text": USER["content"]}]
    return text(client, CHAT, messages=[{**USER, "content": parts}]) == text(client, CHAT)


def _named_models(client: httpx.Client) -> bool:
    found, missing = client.get(f"/v1/models/{MODEL}"), client.get("/v1/models/other")
    card = client.get("/v1/models").json()["data"][0]
    return bool(found.json()["id"] == MODEL and missing.status_code == 404) and isinstance(
        card["max_model_len"], int
    )


def _forbidden(client: httpx.Client) -> bool:
    whole = text(client, CHAT, max_tokens=1)
    asked = {"prompt": whole, "add_special_tokens": False}
    tokens = client.post("/tokenize", json=asked).json()["tokens"]
    bias = {str(token): -100 for token in tokens}
    return not text(client, CHAT, max_tokens=1, logit_bias=bias).startswith(whole)


def _emoji(client: httpx.Client) -> bool:
    asked = {"prompt": "媽 🤗", "add_special_tokens": False, "return_token_strs": True}
    reply = client.post("/tokenize", json=asked).json()
    back = client.post("/detokenize", json={"tokens": reply["tokens"]}).json()
    return bool(back["prompt"] == asked["prompt"]) and all(reply["token_strs"])


def _seeded_choices(client: httpx.Client) -> bool:
    asked: dict[str, Any] = {"n": 3, "seed": 7, "temperature": 2, "max_tokens": 8}
    first, again = (answer(client, CHAT, **asked)["choices"] for _time in range(2))
    said = [choice["message"]["content"] for choice in first]
    return said == [c["message"]["content"] for c in again] and len(set(said)) > 1


def _unknown_in_message(client: httpx.Client) -> bool:
    return text(client, CHAT, messages=[{**USER, "extra_field": "0"}]) == text(client, CHAT)


def _several_streams(client: httpx.Client) -> bool:
    found = events(client, CHAT, n=2)
    ends = [event["choices"][0] for event in found if event["choices"][0]["finish_reason"]]
    return sorted(end["index"] for end in ends) == [0, 1]


CHECKS: dict[str, Check] = {
    "usage adds up": _usage_adds_up,
    "max_tokens is the number of tokens": (
        lambda client: answer(client, CHAT, max_tokens=2)["usage"]["completion_tokens"] == 2
    ),
    "max_completion_tokens comes before max_tokens": (
        lambda client: (
            answer(client, CHAT, max_completion_tokens=2)["usage"]["completion_tokens"] == 2
        )
    ),
    "an answer that is cut says so": (
        lambda client: answer(client, CHAT)["choices"][0]["finish_reason"] == "length"
    ),
    "an answer that ends says so": (
        lambda client: answer(client, CHAT, max_tokens=60)["choices"][0]["finish_reason"] == "stop"
    ),
    "several answers to one prompt": _several,
    "several prompts in their order": _batch,
    "tokens are as good as the text": _tokens_are_the_prompt,
    "tokenize counts what usage counts": _count_is_usage,
    "detokenize is the way back": _back,
    "tokenize names tokens": _names_of_tokens,
    "tokenize says the longest context": (
        lambda client: post(client, "/tokenize").json()["max_model_len"] > 0
    ),
    "a bias of 100 forces a token": _bias_forces,
    "top_k 1 is greedy": lambda c: text(c, CHAT, top_k=1, temperature=2) == text(c, CHAT),
    "top_p 0 is greedy": lambda c: text(c, CHAT, top_p=0, temperature=2) == text(c, CHAT),
    "min_p 1 is greedy": lambda c: text(c, CHAT, min_p=1, temperature=2) == text(c, CHAT),
    "a seed repeats": (
        lambda c: text(c, CHAT, seed=5, temperature=2) == text(c, CHAT, seed=5, temperature=2)
    ),
    "greedy repeats": lambda c: text(c, CHAT) == text(c, CHAT),
    "stop tokens end an answer": _stops_at_token,
    "stop strings end an answer": _stop_string,
    "min_tokens and ignore_eos": _no_early_end,
    "log probabilities of each token": _logprobs_of_each,
    "a greedy token is the likeliest": _likeliest_first,
    "echo begins with the prompt": (
        lambda client: text(client, COMPLETIONS, echo=True).startswith("What is")
    ),
    "a stream is the answer": _stream_is_the_answer,
    "a stream of text is the answer": _text_stream_is_the_answer,
    "a stream ends once": _one_end,
    "a stream has one id": _one_id,
    "usage comes last": _usage_last,
    "no usage unless asked": _no_usage,
    "usage in every event": _usage_in_each,
    "several answers in a stream": _several_streams,
    "empty stream options ask for nothing": _empty_options,
    "no alternatives where none are asked for": _no_alternatives,
    "tokens of log probabilities make the answer": _tokens_join,
    "echo of several prompts with several answers": _echoes,
    "a stream of an echo is the answer": _streamed_echo,
    "answers go on after refusals": _after_refusals,
    "parts of text are the text": _parts_are_text,
    "models are found by their names": _named_models,
    "a bias of -100 forbids a token": _forbidden,
    "tokens of emoji and their way back": _emoji,
    "a seed repeats several answers that differ": _seeded_choices,
    "unknown members of messages are taken": _unknown_in_message,
    "HEAD has no body": lambda c: c.head("/v1/models").content == b"",
    "the version is told": lambda c: "version" in c.get("/version").json(),
    "a model has a root": lambda c: c.get("/v1/models").json()["data"][0]["root"] == MODEL,
}


@pytest.mark.parametrize("name", CHECKS)
def test_behaves(client: httpx.Client, name: str) -> None:
    assert CHECKS[name](client)
