"""The API through real sockets, mutual TLS and OpenAI's own client."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import MODEL, VERSION, Authority, Running, trained
from waiting import http_client, until

JSON = {"content-type": "application/json"}
QUESTION, ANSWER = "What is a release?", dict(trained())["What is a release?"]


@pytest.fixture
def sdk(service: Running, authority: Authority) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(verify=authority.client("gateway-1"))
    url = f"{service.url}/v1"
    with openai.OpenAI(base_url=url, api_key="unused", http_client=http, max_retries=0) as sdk:
        yield sdk


def ask(question: str = QUESTION, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], **more}


def metric(client: httpx.Client, name: str) -> float:
    """The sum over a metric's labels."""
    lines = client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    assert found, f"no metric {name}"
    return sum(float(line.split()[-1]) for line in found)


def test_whole_answer(sdk: openai.OpenAI) -> None:
    reply = sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    assert reply.choices[0].message.content == ANSWER
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == MODEL
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 5
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_streamed_answer_is_the_same_in_pieces(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == ANSWER
    assert sum(bool(piece) for piece in pieces) > 5
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 5


def test_stream_on_the_wire(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/chat/completions", json=ask(stream=True)) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert not any('"usage"' in line for line in lines)


def test_without_a_temperature_the_checkpoint_asks_for_greedy_answers(client: httpx.Client) -> None:
    reply = client.post("/v1/chat/completions", json=ask()).json()
    assert reply["choices"][0]["message"]["content"] == ANSWER


def test_a_seed_repeats_a_sampled_answer(client: httpx.Client) -> None:
    def sampled(seed: int) -> str:
        body = ask("Tell me something new", temperature=2, seed=seed, max_tokens=24)
        reply = client.post("/v1/chat/completions", json=body).json()
        return str(reply["choices"][0]["message"]["content"])

    assert sampled(-7) == sampled(-7)
    assert len({sampled(seed) for seed in range(6)}) > 1


def test_stop_strings_and_max_tokens(client: httpx.Client) -> None:
    def choice(**more: Any) -> dict[str, Any]:
        reply = client.post("/v1/chat/completions", json=ask(**more)).json()
        return dict(reply["choices"][0])

    stopped = choice(stop=[" signed", "never"])
    assert stopped["message"]["content"] == "A release is a small"
    assert stopped["finish_reason"] == "stop"
    cut = choice(max_completion_tokens=3)
    assert cut["finish_reason"] == "length"
    assert ANSWER.startswith(cut["message"]["content"])


def test_a_system_prompt_and_parts_of_text(client: httpx.Client) -> None:
    body = ask()
    body["messages"] = [
        {"role": "developer", "content": "You answer questions about this project."},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ]
    reply = client.post("/v1/chat/completions", json=body).json()
    assert reply["choices"][0]["message"]["content"] == ANSWER


def test_many_at_once_get_their_own_answers(service: Running, authority: Authority) -> None:
    pairs = trained()[::60]

    def one(pair: tuple[str, str]) -> bool:
        with http_client(service.url, verify=authority.client("gateway-1")) as client:
            reply = client.post("/v1/chat/completions", json=ask(pair[0], temperature=0))
        assert reply.status_code == 200, reply.text
        return bool(reply.json()["choices"][0]["message"]["content"] == pair[1])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, pairs))


def test_models_name_release_and_digest(sdk: openai.OpenAI, client: httpx.Client) -> None:
    (card,) = sdk.models.list().data
    assert card.id == MODEL
    response = client.get(f"/v1/models/{MODEL}")
    assert response.json()["release_version"] == VERSION
    digest = response.json()["release_digest"]
    assert len(digest) == 64
    assert response.headers["x-deepseek-release"] == f"{MODEL}/{VERSION}@{digest[:12]}"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("another")


def test_probes(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    before = metric(client, "deepseek_generation_tokens_total")
    reply = client.post("/v1/chat/completions", json=ask()).json()
    after = metric(client, "deepseek_generation_tokens_total")
    assert after - before == reply["usage"]["completion_tokens"]
    assert metric(client, "deepseek_slots") == 2
    assert metric(client, "deepseek_time_to_first_token_seconds_count") >= 1
    assert metric(client, "deepseek_time_per_output_token_seconds_count") >= 1
    text = client.get("/metrics").text
    assert 'deepseek_release_info{digest="' in text
    assert 'deepseek_http_requests_total{path="/v1/chat/completions",status="200"}' in text


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "gpt-4"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "oracle", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages"),
        ({"temperature": 3}, 400, "temperature"),
        ({"top_p": -1}, 400, "top_p"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"n": 17}, 400, "n"),
        ({"n": 16}, 400, "n"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools"),
        ({"colour": "red"}, 400, "colour"),
        ({"messages": [{"role": "user", "content": "many words " * 400}]}, 400, "messages"),
    ],
)
def test_bad_requests_are_refused_in_openai_shape(
    client: httpx.Client, change: dict[str, object], status: int, param: str
) -> None:
    response = client.post("/v1/chat/completions", json={**ask(), **change})
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] is not None
    assert error["param"].startswith(param)
    assert error["type"] == "invalid_request_error"


def test_the_sdk_raises_its_own_errors(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist here") as caught:
        sdk.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model_not_found"


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    assert client.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.post("/v1/chat/completions", content=b"{").status_code == 400


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        "\ud800",
        "model",
        "messages",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "stream",
        "n",
        "tools",
        "user",
        "top_k",
        "min_p",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "frequency_penalty",
        "response_format",
        "tool_choice",
    ]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(fields | st.text(max_size=8), json_values, max_size=3))
def test_no_input_makes_the_service_fail(client: httpx.Client, changes: dict[str, object]) -> None:
    # Python's own encoder, since httpx would send neither NaN nor half a surrogate pair
    content = json.dumps({**ask(max_tokens=1), **changes})
    response = client.post("/v1/chat/completions", content=content, headers=JSON)
    assert response.status_code in (200, 400, 404)
    if response.status_code != 200:
        assert response.json()["error"]["message"]


def test_a_full_queue_answers_429(service: Running, authority: Authority) -> None:
    """Two slots and a queue of two: of eight long answers at once, some are refused."""
    body = ask("Tell me something", temperature=2, seed=1, max_tokens=400)
    context = authority.client("gateway-1")

    def one(_number: int) -> tuple[int, str | None]:
        with http_client(service.url, verify=context) as client:
            response = client.post("/v1/chat/completions", json=body)
        return response.status_code, response.headers.get("retry-after")

    # on a busy machine answers may end before all requests are there
    for _turn in range(20):
        with ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(one, range(12)))
        if any(status == 429 for status, _header in replies):
            break
    assert {status for status, _header in replies} == {200, 429}
    assert all(retry == "1" for status, retry in replies if status == 429)


def test_a_client_that_hangs_up_frees_its_slot(client: httpx.Client) -> None:
    body = ask("Tell me something", temperature=2, seed=1, max_tokens=400, stream=True)
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
    until(lambda: not metric(client, "deepseek_slots_busy"))


def test_another_client_certificate_gets_403(service: Running, authority: Authority) -> None:
    context = authority.client("inference-2")
    with http_client(service.url, verify=context) as client:
        for path in ("/healthz", "/v1/models"):
            response = client.get(path)
            assert response.status_code == 403
            assert response.json()["error"]["code"] == "client_not_allowed"
            assert "inference-2" in response.json()["error"]["message"]


def test_no_client_certificate_or_a_foreign_one_gets_no_connection(
    service: Running, authority: Authority, tmp_path: Path
) -> None:
    foreign = Authority(tmp_path).client("gateway-1", trust=authority.ca)
    for context in (authority.client(None), foreign):
        with (
            http_client(service.url, verify=context) as client,
            pytest.raises(httpx.TransportError),
        ):
            client.get("/healthz")


def test_tls_1_2_is_refused(service: Running, authority: Authority) -> None:
    context = authority.client("gateway-1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        http_client(service.url, verify=context) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get("/healthz")
