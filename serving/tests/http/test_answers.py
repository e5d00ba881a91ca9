"""Answers of every kind, as OpenAI's own client asks for them, from the real model."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from support import MODEL, Authority, Running, trained
from waiting import http_client

QUESTION, ANSWER = "What is a release?", dict(trained())["What is a release?"]
USER: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def sdk(service: Running, authority: Authority) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(verify=authority.client("gateway-1"))
    url = f"{service.url}/v1"
    with openai.OpenAI(base_url=url, api_key="unused", http_client=http, max_retries=0) as sdk:
        yield sdk


def post(client: httpx.Client, path: str = "chat/completions", **body: Any) -> httpx.Response:
    ask = {"messages": USER} if path == "chat/completions" else {}
    return client.post(f"/v1/{path}", json={"model": MODEL, **ask, **body})


def test_several_answers_of_one_request(sdk: openai.OpenAI) -> None:
    def ask(n: int) -> Any:
        return sdk.chat.completions.create(
            model=MODEL, messages=USER, n=n, temperature=2, seed=3, max_tokens=12
        )

    reply = ask(3)
    texts = [choice.message.content for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in ask(3).choices]
    alone = ask(1)
    # the first is what a request for one would get
    assert texts[0] == alone.choices[0].message.content
    # and the prompt is counted once
    assert reply.usage.prompt_tokens == alone.usage.prompt_tokens


def test_several_streams_in_one(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(
        model=MODEL, messages=USER, n=3, temperature=2, seed=3, max_tokens=12
    )
    texts = ["", "", ""]
    ends: list[int] = []
    with sdk.chat.completions.create(
        model=MODEL, messages=USER, n=3, temperature=2, seed=3, max_tokens=12, stream=True
    ) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                ends += [choice.index] if choice.finish_reason else []
    assert sorted(ends) == [0, 1, 2]
    assert texts == [choice.message.content for choice in whole.choices]


def test_more_answers_than_ever_fit_are_refused_for_good(client: httpx.Client) -> None:
    """Two slots and a queue of two: five would be refused with 429 for ever."""
    reply = post(client, n=5)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "n"
    assert "at most 4" in reply.json()["error"]["message"]


def test_log_probabilities(sdk: openai.OpenAI) -> None:
    reply = sdk.chat.completions.create(
        model=MODEL, messages=USER, temperature=0, logprobs=True, top_logprobs=5
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    said = b"".join(bytes(entry.bytes or []) for entry in logprobs.content)
    assert said.decode() == ANSWER
    for entry in logprobs.content:
        best = entry.top_logprobs
        assert len(best) == 5
        # greedy takes the best, and they are in order
        assert (best[0].token, best[0].logprob) == (entry.token, entry.logprob)
        values = [top.logprob for top in best]
        assert values == sorted(values, reverse=True)
        assert sum(math.exp(value) for value in values) <= 1 + 1e-6


def test_log_probabilities_in_a_stream_are_the_same(client: httpx.Client) -> None:
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 1, "stop": ["small"]}
    whole = post(client, **options).json()["choices"][0]["logprobs"]["content"]
    with client.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": MODEL, "messages": USER, "stream": True, **options},
    ) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    chunks = [json.loads(line)["choices"][0] for line in lines[:-1]]
    streamed = [entry for chunk in chunks for entry in (chunk["logprobs"] or {}).get("content", [])]
    assert streamed == whole


def test_a_bias_forbids_and_forces(client: httpx.Client) -> None:
    first = post(client, logprobs=True, max_tokens=1).json()["choices"][0]
    assert first["message"]["content"] == "A"

    def said(bias: dict[str, float]) -> str:
        reply = post(client, logit_bias=bias, max_tokens=3).json()
        return str(reply["choices"][0]["message"]["content"])

    tokens = {chr(number): str(number - 30) for number in range(33, 127)}
    # the vocabulary begins with the marks, then with the characters from ! on
    assert said({tokens["Z"]: 100}) == "ZZZ"
    assert not said({tokens["A"]: -100}).startswith("A")
    assert post(client, logit_bias={"1024": 1}).json()["error"]["param"] == "logit_bias"
    for wrong in ({"a": 1}, {"1": 101}, {"-1": 1}, {"1": None}):
        assert post(client, logit_bias=wrong).status_code == 400


def test_penalties_keep_it_from_repeating(client: httpx.Client) -> None:
    def tokens(**options: Any) -> list[str]:
        reply = post(client, logit_bias={"60": 30}, logprobs=True, max_tokens=30, **options)
        content = reply.json()["choices"][0]["logprobs"]["content"]
        return [entry["token"] for entry in content]

    assert len(set(tokens())) == 1
    # after some fifteen times the penalty outweighs the bias
    for penalised in (tokens(frequency_penalty=2), tokens(frequency_penalty=2, presence_penalty=2)):
        assert 5 < penalised.count("Z") < 25
    # one that comes once does not
    assert len(set(tokens(presence_penalty=2))) == 1


def test_top_k_of_one_is_greedy(client: httpx.Client) -> None:
    sharp: list[dict[str, Any]] = [{"top_k": 1}, {"min_p": 1}]
    for options in sharp:
        reply = post(client, temperature=2, seed=9, **options).json()
        assert reply["choices"][0]["message"]["content"] == ANSWER


def test_json_objects(client: httpx.Client) -> None:
    """The tiny model was never taught JSON; the grammar alone makes it write some."""
    complete = 0
    for seed in range(6):
        reply = post(
            client,
            response_format={"type": "json_object"},
            temperature=1,
            seed=seed,
            max_tokens=150,
        ).json()["choices"][0]
        assert reply["message"]["content"].startswith("{")
        if reply["finish_reason"] == "stop":
            complete += 1
            assert isinstance(json.loads(reply["message"]["content"]), dict)
    assert complete


PATIENT = {
    "type": "object",
    "properties": {
        "ward": {"type": "integer", "minimum": 1, "maximum": 40},
        "state": {"enum": ["well", "ill"]},
        "free": {"type": "boolean"},
    },
    "required": ["ward", "state", "free"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(5))
def test_json_by_a_schema(sdk: openai.OpenAI, seed: int) -> None:
    reply = sdk.chat.completions.create(
        model=MODEL,
        messages=USER,
        temperature=1.5,
        seed=seed,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "patient", "strict": True, "schema": PATIENT},
        },
    )
    value = json.loads(reply.choices[0].message.content or "")
    assert reply.choices[0].finish_reason == "stop"
    assert set(value) == {"ward", "state", "free"}
    assert 1 <= value["ward"] <= 40
    assert value["state"] in ("well", "ill")
    assert isinstance(value["free"], bool)


@pytest.mark.parametrize(
    "schema",
    [{"type": "nothing"}, {"$ref": "http://127.0.0.1/x"}, {"pattern": "(", "type": "string"}],
)
def test_a_schema_that_cannot_be_enforced_is_refused(
    client: httpx.Client, schema: dict[str, Any]
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    reply = post(client, response_format=wanted)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_json_schema"


def test_a_schema_that_asks_for_too_much_ends_its_own_answer_alone(client: httpx.Client) -> None:
    """It compiles, and only its first steps show what it takes to enforce it."""
    texts = [{"type": "string", "pattern": f".*{number}.*"} for number in range(400)]
    wicked = {
        "anyOf": [{"type": "object", "properties": {f"k{n}": t}} for n, t in enumerate(texts)]
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": wicked}}
    reply = post(client, response_format=wanted)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_json_schema"
    streamed = post(client, response_format=wanted, stream=True)
    assert '"code":"invalid_json_schema"' in streamed.text
    assert post(client).json()["choices"][0]["message"]["content"] == ANSWER


def test_tools_are_refused_where_the_template_has_none(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="has no tools") as caught:
        sdk.chat.completions.create(
            model=MODEL,
            messages=USER,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )
    assert caught.value.param == "tools"


def test_completions_go_on_with_a_text(sdk: openai.OpenAI) -> None:
    text = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    reply = sdk.completions.create(model=MODEL, prompt=text, max_tokens=100, temperature=0)
    assert reply.object == "text_completion"
    assert reply.choices[0].text == ANSWER
    assert reply.choices[0].finish_reason == "stop"
    echoed = sdk.completions.create(model=MODEL, prompt=text, temperature=0, echo=True)
    assert echoed.choices[0].text.startswith(text)
    assert echoed.usage is not None
    assert echoed.usage.completion_tokens == 16
    with sdk.completions.create(
        model=MODEL, prompt=text, max_tokens=100, temperature=0, stream=True
    ) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == ANSWER


def test_completions_of_tokens_and_of_several_prompts(client: httpx.Client) -> None:
    def texts(prompt: object, **more: Any) -> list[str]:
        reply = post(client, "completions", prompt=prompt, max_tokens=5, **more).json()
        return [choice["text"] for choice in reply["choices"]]

    first, second = texts([5, 6, 7])[0], texts([8, 9])[0]
    assert texts([[5, 6, 7], [8, 9]]) == [first, second]
    assert texts(["ab", "cd"]) == [texts("ab")[0], texts("cd")[0]]
    assert len(texts(["ab", "cd"], n=2)) == 4
    reply = post(client, "completions", prompt="ab", max_tokens=3, logprobs=2)
    logprobs = reply.json()["choices"][0]["logprobs"]
    assert [len(logprobs[name]) for name in ("tokens", "token_logprobs", "top_logprobs")] == [3] * 3
    assert logprobs["text_offset"][0] == 0


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "is empty"),
        ([], "prompt"),
        ([1024], "the tokens 0 to 1023"),
        ([-1], "prompt"),
        ([[]], "prompt"),
        ([1, "a"], "prompt"),
        (["a"] * 17, "prompt"),
        ("many words " * 400, "context length is 512"),
    ],
)
def test_wrong_prompts_are_refused(client: httpx.Client, prompt: object, message: str) -> None:
    reply = post(client, "completions", prompt=prompt)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"tool_choice": "required"}, "there are no tools"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "g"}}},
            "not among the tools",
        ),
        ({"messages": [{"role": "user"}]}, "needs content"),
        ({"n": 0}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    client: httpx.Client, change: dict[str, Any], message: str
) -> None:
    reply = post(client, **change)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_request_ids(client: httpx.Client) -> None:
    sent = client.get("/v1/models", headers={"x-request-id": "trace-1:2"})
    assert sent.headers["x-request-id"] == "trace-1:2"
    made = client.get("/v1/models", headers={"x-request-id": "two words"}).headers["x-request-id"]
    assert len(made) == 32
    assert made != client.get("/v1/models").headers["x-request-id"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client: httpx.Client) -> None:
    large = b" " * (9 * 2**20)

    def in_parts() -> Iterator[bytes]:
        for start in range(0, len(large), 2**20):
            yield large[start : start + 2**20]

    for content in (large, in_parts()):
        reply = client.post("/v1/chat/completions", content=content)
        assert reply.status_code == 413
        assert "larger than 8388608 bytes" in reply.json()["error"]["message"]


def test_langchain(service: Running, authority: Authority) -> None:
    with http_client(verify=authority.client("gateway-1")) as http:
        chat = ChatOpenAI(
            model=MODEL,
            base_url=f"{service.url}/v1",
            api_key=SecretStr("unused"),
            http_client=http,
            temperature=0,
        )
        assert chat.invoke(QUESTION).content == ANSWER
        pieces = [chunk.content for chunk in chat.stream(QUESTION)]
    assert "".join(str(piece) for piece in pieces) == ANSWER
    assert len(pieces) > 5


def test_curl(service: Running, authority: Authority) -> None:
    certificate, key = authority.issue("gateway-1")
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail"),
            *("--cacert", str(authority.ca), "--cert", str(certificate), "--key", str(key)),
            *("--json", json.dumps({"model": MODEL, "messages": USER})),
            f"{service.url}/v1/chat/completions",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == ANSWER
