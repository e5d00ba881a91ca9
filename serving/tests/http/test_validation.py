"""Whatever a body holds, it is bounded before anything is done with it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError
from support import CHECKPOINT, MODEL, free_port, serve_app
from test_faults import Hanging
from tokenizers import Tokenizer
from waiting import PATIENCE, http_client, until
from wicked_bodies import ASKED, CHAT, COMPLETIONS, EMBEDDINGS, ENCODER, NAMED, WICKED

from deepseek_serving.backends.embedding import Embedder
from deepseek_serving.backends.encoders import Encoders
from deepseek_serving.backends.local import Service
from deepseek_serving.backends.upstream import Upstream
from deepseek_serving.generation.scheduler import Scheduler
from deepseek_serving.http import admission
from deepseek_serving.http import validation as judging
from deepseek_serving.http import validation_pool as judges
from deepseek_serving.http.app import create_app
from deepseek_serving.http.complaints import RefusedError, explained
from deepseek_serving.http.proxy import create_forwarding_app
from deepseek_serving.http.schema.chat import ChatRequest
from deepseek_serving.http.schema.completions import CompletionRequest
from deepseek_serving.http.schema.embeddings import EmbeddingRequest
from deepseek_serving.http.validation import (
    ReadChat,
    ReadForwarded,
)
from deepseek_serving.settings import UpstreamSettings
from deepseek_serving.text.prompts import Prompt
from deepseek_serving.text.slices import SLICE, SlicedTokenizer
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release


class Flat:
    """An encoder that says nothing."""

    size, max_len = 4, 64

    def embed(self, texts: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.zeros((len(texts), self.size), dtype=np.float32)


def _embedder() -> Embedder:
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    return Embedder(ENCODER, "0" * 64, Flat(), tokenizer, vocabulary=1024, queue=2)


@pytest.fixture(scope="module")
def service(graph: Path) -> Iterator[Service]:
    scheduler = Scheduler(Hanging())
    scheduler.start()
    yield Service(Release(MODEL, "1", "0" * 64, graph), scheduler, ChatTokenizer(graph))
    scheduler.stop()


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    app = create_app(service, encoders=Encoders(_embedder()))
    with serve_app(app) as url, http_client(url) as client:
        yield client


@pytest.fixture(scope="module")
def forwarding(graph: Path) -> Iterator[httpx.Client]:
    """In front of a server that is not there: what is not refused is a 503."""
    settings = UpstreamSettings(url=f"http://127.0.0.1:{free_port()}", model="behind")
    app = create_forwarding_app(Upstream(Release(MODEL, "1", "0" * 64, graph), settings))
    with serve_app(app) as url, http_client(url) as client:
        yield client


def ask(client: httpx.Client, path: str, content: bytes) -> httpx.Response:
    return client.post(path, content=content, headers={"content-type": "application/json"})


def error_of(reply: httpx.Response) -> dict[str, Any]:
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(reply.content) < 4096
    return dict(error)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_bodies_of_millions_of_parts_are_refused_and_leave_no_memory(client: httpx.Client) -> None:
    assert ask(client, *WICKED["spaces"]).status_code == 400
    before = resident()
    for name, (path, body) in WICKED.items():
        reply = ask(client, path, body)
        assert reply.status_code == 400, name
        error_of(reply)
    assert client.get("/healthz").status_code == 200
    # it was gigabytes
    assert resident() - before < 100 * 2**20


def test_what_is_forwarded_is_bounded_as_well(forwarding: httpx.Client) -> None:
    for name in ("messages", "content", "prompts", "metadata"):
        assert ask(forwarding, *WICKED[name]).status_code == 400, name


@pytest.mark.parametrize(
    ("schema", "body", "param"),
    [
        (ChatRequest, {"messages": [{}] * 20_000}, "messages[0].role"),
        (ChatRequest, {"messages": [{"role": "user", "content": "a"}] * 2049}, "messages"),
        (ChatRequest, {"messages": [{"role": "user", "content": [0] * 20_000}]}, None),
        (ChatRequest, {"messages": [], "tools": [{}] * 20_000}, None),
        (ChatRequest, {"messages": [], "stop": [1] * 20_000}, None),
        (ChatRequest, {"messages": [], "logit_bias": {str(n): "x" for n in range(9000)}}, None),
        (
            ChatRequest,
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}] * 9000}]},
            None,
        ),
        (CompletionRequest, {"prompt": ["x", *[0] * 20_000]}, None),
        (CompletionRequest, {"prompt": [-1] * 20_000}, None),
        (CompletionRequest, {"prompt": [[]] * 20_000}, None),
        (EmbeddingRequest, {"input": [None] * 20_000}, None),
        (EmbeddingRequest, {"input": [[0, -1]] * 20_000}, None),
    ],
)
def test_the_first_error_of_a_list_ends_its_validation(
    schema: type[ChatRequest], body: dict[str, Any], param: str | None
) -> None:
    asked = {"model": "m", **body}
    with pytest.raises(ValidationError) as caught:
        schema.model_validate(asked)
    assert caught.value.error_count() < 12
    refused = explained(caught.value, asked)
    assert param is None or refused.param == param


@pytest.mark.parametrize(
    "arguments", ["[" + "{}," * 9000 + "{}]", "[" + "1," * 70_000 + "1]", "[" * 9000]
)
def test_arguments_of_calls_are_bounded_as_what_holds_them(arguments: str) -> None:
    call = {"id": "x", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "tool_calls": [call]}
    with pytest.raises(RefusedError) as caught:
        ReadChat().read(json.dumps({"model": "m", "messages": [message]}).encode())
    assert caught.value.param == "messages[0].tool_calls[0].function.arguments"


def test_of_many_unknown_arguments_one_is_named() -> None:
    body = {"model": "m", **{f"k{number}": 1 for number in range(9000)}}
    with pytest.raises(RefusedError) as caught:
        ReadChat().read(json.dumps(body).encode())
    assert (caught.value.param, caught.value.code) == ("k0", "unknown_parameter")


def test_texts_full_of_json_are_texts() -> None:
    text = json.dumps([{"a": ["\\", '"', i]} for i in range(20_000)])
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    assert ReadChat().read(json.dumps(body).encode()).messages[0]["content"] == text


@pytest.mark.parametrize("escaped", ["\\ud800", "\\udfff\\ud800", "a\\udc00"])
@pytest.mark.parametrize("place", ["content", "user"])
def test_half_a_surrogate_pair_is_refused_on_every_path(
    client: httpx.Client, forwarding: httpx.Client, escaped: str, place: str
) -> None:
    text = {"content": "a", "user": "a", place: escaped}
    body = (
        f'{{"model":"{MODEL}","messages":[{{"role":"user","content":"{text["content"]}"}}],'
        f'"user":"{text["user"]}"}}'
    ).encode()
    for served in (client, forwarding):
        reply = ask(served, CHAT, body)
        assert reply.status_code == 400
        assert "surrogate" in error_of(reply)["message"]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_takes_for_json_is_refused(constant: str) -> None:
    for reading in (ReadChat(), ReadForwarded(CHAT, "behind")):
        with pytest.raises(RefusedError) as caught:
            reading.read(ASKED + b'"metadata":' + constant.encode() + b"}")
        assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(("depth", "accepted"), [(120, True), (130, False), (5000, False)])
def test_depth_is_bounded(depth: int, accepted: bool) -> None:
    body = ASKED + b'"metadata":' + b'{"a":[' * (depth // 2) + b"]}" * (depth // 2) + b"}"
    if accepted:
        assert ReadChat().read(body)
    else:
        with pytest.raises(RefusedError):
            ReadChat().read(body)


def test_of_duplicate_keys_one_is_read_and_forwarded() -> None:
    asked = ReadForwarded(CHAT, "behind").read(ASKED + b'"seed":1,"seed":2,"model":"m"}')
    assert asked.model == "m"
    assert json.loads(asked.body)["seed"] == 2
    assert asked.body.count(b'"seed"') == 1
    assert json.loads(asked.body)["model"] == "behind"


@pytest.mark.parametrize(
    ("last", "count", "accepted"),
    [
        ("a", 2**23, True),
        ("\u4e2d", 2**23, True),
        ("\U0001f600", 2**22, True),
        ("\U0001f600", 2**23, False),
        ("\\ud83d\\ude00", 2**23, False),
    ],
)
def test_a_text_is_refused_that_one_character_makes_four_times_as_large(
    last: str, count: int, accepted: bool
) -> None:
    head, tail = f'{NAMED.decode()}"messages":[{{"role":"user","content":"', f'{last}"}}]}}'
    body = (head + "a" * (count - len(head) - 20) + tail).encode()
    if accepted:
        assert ReadChat().read(body).model == MODEL
        return
    with pytest.raises(RefusedError, match="emoji") as caught:
        ReadChat().read(body)
    assert caught.value.code == "request_too_complex"


def test_large_bodies_are_not_read_in_this_process(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_given: object) -> None:
        raise AssertionError("read in the event loop")

    small = json.dumps({"model": MODEL, "prompt": "a " * 60, "max_tokens": 1}).encode()
    assert ask(client, COMPLETIONS, small).status_code == 200
    monkeypatch.setattr(judging, "_parsed", never)
    large = json.dumps({"model": MODEL, "prompt": [5], "max_tokens": 1}).encode() + b" " * 70_000
    assert ask(client, COMPLETIONS, large).status_code == 200
    assert ask(client, COMPLETIONS, small).status_code == 500


# slowly


def test_a_large_body_that_comes_slowly_is_given_up(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "BODY_SECONDS", 0.2)
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as slow:
        slow.sendall(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            "content-length: 1000000\r\n\r\n".encode()
            + b" " * 70_000
        )
        slow.settimeout(PATIENCE)
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")


def test_only_few_large_bodies_are_in_memory(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(admission, "BODY_SECONDS", PATIENCE)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        "content-length: 1000000\r\n\r\n"
    ).encode()
    address = (client.base_url.host, client.base_url.port or 0)

    def large() -> httpx.Response:
        return ask(client, CHAT, b" " * 70_000)

    held = [socket.create_connection(address) for _body in range(judges.BODIES)]
    try:
        for connection in held:
            connection.sendall(head + b" " * 70_000)
        until(lambda: large().status_code == 429)
        reply = large()
        assert error_of(reply)["code"] == "queue_full"
        assert reply.headers["retry-after"] == "1"
    finally:
        for connection in held:
            connection.close()
    # small ones wait for nobody, and the places of those who left are free
    assert ask(client, CHAT, b"{").status_code == 400
    until(lambda: large().status_code != 429)


# text


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The thread and the length of every text that is tokenised."""
    seen: list[tuple[str, int]] = []
    whole = SlicedTokenizer._encode

    def noted(self: SlicedTokenizer, text: str, *, special: bool = False) -> list[int]:
        seen.append((threading.current_thread().name, len(text)))
        return whole(self, text, special=special)

    monkeypatch.setattr(SlicedTokenizer, "_encode", noted)
    return seen


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "word " * 100_000}]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 500_000}]}, "messages"),
        (COMPLETIONS, {"prompt": ["a", "word " * 100_000]}, "prompt"),
        (COMPLETIONS, {"prompt": [5] * 200_000}, "prompt"),
        (EMBEDDINGS, {"model": ENCODER, "input": ["a", "word " * 100_000]}, "input"),
        (EMBEDDINGS, {"model": ENCODER, "input": [[1], [5] * 200_000]}, "input"),
    ],
)
def test_a_long_text_is_read_elsewhere_and_only_until_it_is_too_long(
    client: httpx.Client,
    encoded: list[tuple[str, int]],
    path: str,
    body: dict[str, Any],
    param: str,
) -> None:
    reply = ask(client, path, json.dumps({"model": MODEL, **body}).encode())
    assert reply.status_code == 400
    error = error_of(reply)
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)
    assert "context length is" in error["message"]
    assert all(thread.startswith("off-loop") for thread, _length in encoded)
    assert sum(length for _thread, length in encoded) <= 2 * SLICE


WORDS = "word " * 100_000


@pytest.mark.parametrize(
    ("messages", "rendered"),
    [
        ([("user", WORDS)], False),
        ([("system", WORDS), ("user", "a")], False),
        ([("user", "word " * 500)] * 40, False),
        # which a template may leave out
        ([("user", "a"), ("assistant", WORDS), ("user", "b")], True),
        ([("user", "a" + " " * 500_000)], True),
        # too long, and not by far
        ([("user", "word " * 300)], True),
    ],
)
def test_what_is_far_too_long_is_not_even_rendered(
    client: httpx.Client,
    messages: list[tuple[str, str]],
    rendered: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[object] = []
    render = ChatTokenizer.rendered

    def noted(self: ChatTokenizer, *arguments: Any) -> Prompt:
        seen.append(arguments)
        return render(self, *arguments)

    monkeypatch.setattr(ChatTokenizer, "rendered", noted)
    told = [{"role": role, "content": content} for role, content in messages]
    reply = ask(client, CHAT, json.dumps({"model": MODEL, "messages": told}).encode())
    assert error_of(reply)["code"] == "context_length_exceeded"
    assert bool(seen) is rendered


def test_a_path_with_a_slash_at_its_end_leads_nowhere(client: httpx.Client) -> None:
    reply = client.post(f"{CHAT}/", json={}, headers={"host": "elsewhere.example"})
    assert reply.status_code == 404
    assert "location" not in reply.headers


@pytest.mark.parametrize(
    "path", ["/" + "a" * 9000, "/v1/" + "%01" * 3000, "/v1/models/" + "x" * 9000]
)
def test_a_refusal_repeats_little_of_a_long_path(client: httpx.Client, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 404
    error_of(reply)


def test_others_are_answered_while_thousands_of_vectors_are_written(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each vector is a turn of the event loop by itself."""
    turns = 0
    sleep = asyncio.sleep

    async def counted(delay: float) -> None:
        nonlocal turns
        turns += delay == 0
        await sleep(delay)

    monkeypatch.setattr(asyncio, "sleep", counted)
    body = {"model": ENCODER, "input": [[1]] * 2048}
    reply = ask(client, EMBEDDINGS, json.dumps(body).encode())
    assert [entry["index"] for entry in reply.json()["data"]] == list(range(2048))
    assert reply.json()["usage"]["total_tokens"] == 2048
    assert turns >= 2048
