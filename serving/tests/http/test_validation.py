"""Whatever a body holds, it is bounded before anything is done with it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import os
import pickle
import signal
import socket
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from pydantic import ValidationError
from readings import Where, Wicked
from support import CHECKPOINT, MODEL, free_port, serve_app
from test_faults import Hanging
from tokenizers import Tokenizer
from waiting import PATIENCE, http_client, until

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
from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.offload import OffLoop
from deepseek_serving.http.proxy import create_forwarding_app
from deepseek_serving.http.schema.chat import ChatRequest
from deepseek_serving.http.schema.completions import CompletionRequest
from deepseek_serving.http.schema.embeddings import EmbeddingRequest
from deepseek_serving.http.validation import (
    ReadChat,
    ReadCompletion,
    ReadEmbedding,
    ReadForwarded,
    Reading,
)
from deepseek_serving.http.validation_pool import ValidationPool, _answer
from deepseek_serving.http.validation_process import LENGTH_BYTES, PIECE
from deepseek_serving.settings import UpstreamSettings
from deepseek_serving.text.prompts import Prompt
from deepseek_serving.text.slices import SLICE, SlicedTokenizer
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
ENCODER = "tiny-encoder"
LARGE = 2**20
# nothing but the text
END = pickle.dumps(None)
NAMED = f'{{"model":"{MODEL}",'.encode()
ASKED = NAMED + b'"messages":[{"role":"user","content":"a"}],'


def filled(head: bytes, unit: bytes, tail: bytes, size: int = LARGE) -> bytes:
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


def numbered(head: bytes, entry: bytes, tail: bytes, count: int) -> bytes:
    return head + b",".join(entry % number for number in range(count)) + tail


# Each of as many parts as a body can have.
WICKED: dict[str, tuple[str, bytes]] = {
    "messages": (CHAT, filled(NAMED + b'"messages":[', b"{},", b"{}]}", 8 * 2**20)),
    "content": (
        CHAT,
        filled(NAMED + b'"messages":[{"role":"user","content":[', b"0,", b"0]}]}"),
    ),
    "tools": (CHAT, filled(ASKED + b'"tools":[', b"[],", b"[]]}")),
    "stop": (CHAT, filled(ASKED + b'"stop":[', b'"a",', b'"a"]}')),
    "logit_bias": (CHAT, numbered(ASKED + b'"logit_bias":{', b'"%d":"x"', b"}}", 200_000)),
    "metadata": (CHAT, filled(ASKED + b'"metadata":[', b"1.5,", b"1]}")),
    "arguments": (CHAT, numbered(NAMED, b'"k%d":1', b"}", 200_000)),
    "nested": (CHAT, ASKED + b'"metadata":' + b"[" * 500_000 + b"]" * 500_000 + b"}"),
    "prompt": (COMPLETIONS, filled(NAMED + b'"prompt":[', b"0,", b"0]}")),
    "prompts": (COMPLETIONS, filled(NAMED + b'"prompt":[', b"[0],", b"[0]]}")),
    "input": (
        EMBEDDINGS,
        filled(f'{{"model":"{ENCODER}","input":['.encode(), b'"",', b'""]}'),
    ),
    "quotes that are escaped": (
        CHAT,
        filled(NAMED + b'"messages":[{"role":"user","content":"', rb"\",[", b'"}]}'),
    ),
    "a number": (CHAT, filled(ASKED + b'"seed":', b"9", b"}")),
    "a key": (CHAT, filled(ASKED + b'"', b"k", b'":1}')),
    "a model": (
        CHAT,
        filled(b'{"messages":[{"role":"user","content":"a"}],"model":"', b"m", b'"}'),
    ),
    "spaces": (CHAT, b" " * LARGE),
}
READINGS: dict[str, Reading] = {
    CHAT: ReadChat(),
    COMPLETIONS: ReadCompletion(),
    EMBEDDINGS: ReadEmbedding(),
}


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


# in other processes


@pytest.fixture
def _tests_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    given = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[1]}{os.pathsep}{given}")


@pytest.mark.usefixtures("_tests_importable")
def test_a_judge_that_fails_refuses_one_body_and_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # what ends the one that spins is its processor time, on a busy machine, too
    monkeypatch.setattr(judges, "JUDGE_SECONDS", 600.0)

    async def judged() -> list[object]:
        pool = ValidationPool(count=1)
        found: list[object] = []
        try:
            wicked = [Wicked(does) for does in ("spin", "hoard", "exit", "kill")]
            readings: list[Reading] = [Where(), *wicked, Where()]
            for reading in readings:
                try:
                    found.append(await pool.judge(reading, [b"a" * 9, b"b"]))
                except RefusedError as error:
                    found.append(error.code)
        finally:
            await pool.close()
        return found

    first, *refusals, last = asyncio.run(judged())
    assert refusals == ["request_too_complex"] * 4
    assert isinstance(first, tuple)
    assert isinstance(last, tuple)
    assert first[1] == last[1] == 10
    assert os.getpid() not in (first[0], last[0])


@pytest.mark.usefixtures("_tests_importable")
def test_a_judge_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "JUDGE_SECONDS", 0.3)

    async def judged() -> int:
        pool = ValidationPool(("sleep", "1000"), count=1)
        with pytest.raises(ApiError) as caught:
            await pool.judge(Where(), [b"a" * 2**20])
        await pool.close()
        return caught.value.status

    assert asyncio.run(judged()) == 429


def test_a_judge_that_was_only_not_kept_refuses_nobody(tmp_path: Path) -> None:
    """A body may come just as the process of the last one ends."""
    flag = tmp_path / "ended"
    script = (
        f"import os, sys\nif not os.path.exists({str(flag)!r}):\n    open({str(flag)!r}, 'w')\n"
        "    sys.exit(0)\nfrom deepseek_serving.http.validation_process import main\nmain()"
    )

    async def judged() -> Any:
        pool = ValidationPool((sys.executable, "-c", script), count=1)
        try:
            return await pool.judge(ReadChat(), [ASKED, b'"n":1}'])
        finally:
            await pool.close()

    assert asyncio.run(judged()).model == MODEL
    assert flag.exists()


def test_a_judge_that_is_told_to_end_goes_on_until_the_service_has() -> None:
    """Systemd tells every process of a unit to end at once, and requests are still answered."""

    async def judged() -> Any:
        pool = ValidationPool(count=1)
        try:
            await pool.judge(ReadChat(), [ASKED, b'"n":1}'])
            process = pool._all[0]._process
            assert process is not None
            process.send_signal(signal.SIGTERM)
            await pool.judge(ReadChat(), [ASKED, b'"n":1}'])
            assert pool._all[0]._process is process
        finally:
            await pool.close()
        return process.returncode

    assert asyncio.run(judged()) == -signal.SIGKILL


def test_a_long_text_comes_back_as_it_was() -> None:
    text = "word \U0001f600\u4e2d" * PIECE

    async def judged() -> Any:
        pool = ValidationPool(count=1)
        body = json.dumps({"role": "user", "content": text}, ensure_ascii=False)
        try:
            return await pool.judge(ReadChat(), [NAMED, f'"messages":[{body}]}}'.encode()])
        finally:
            await pool.close()

    assert asyncio.run(judged()).messages[0]["content"] == text


class Frames:
    """What a process writes of one text, made as it is read."""

    def __init__(self, pieces: int) -> None:
        text = b"x" * PIECE
        frames = [pickle.dumps([pieces]), *[text] * pieces]
        self._parts = chain.from_iterable(
            (len(frame).to_bytes(LENGTH_BYTES, "big"), frame) for frame in [*frames, END]
        )

    async def readexactly(self, count: int) -> bytes:
        part = next(self._parts)
        assert len(part) == count
        return part


def test_a_long_text_grows_where_it_is() -> None:
    """To copy all of it at once would hold the event loop."""
    pieces = 64
    asyncio.run(_answer(cast(asyncio.StreamReader, Frames(pieces))))
    tracemalloc.start()
    try:
        assert asyncio.run(_answer(cast(asyncio.StreamReader, Frames(pieces)))) is None
        assert tracemalloc.get_traced_memory()[1] < (pieces + 16) * PIECE
    finally:
        tracemalloc.stop()


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


class Weak(list[bytes]):
    """One that can be referred to weakly."""


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_a_refusal_does_not_keep_the_body() -> None:
    async def refused() -> object:
        pool = ValidationPool(count=1)
        body = Weak([b"[]"])
        with contextlib.suppress(RefusedError):
            await pool.judge(ReadChat(), body)
        kept = weakref.ref(body)
        del body
        await pool.close()
        return kept()

    assert asyncio.run(refused()) is None


@pytest.mark.usefixtures("_no_collector")
def test_work_off_the_loop_that_fails_keeps_nothing() -> None:
    def fail(given: Weak) -> None:
        raise ValueError(len(given))

    async def failed() -> object:
        off_loop, given = OffLoop(), Weak()
        with contextlib.suppress(ValueError):
            await off_loop.run(functools.partial(fail, given))
        kept = weakref.ref(given)
        del given
        # the thread has it for a moment longer, and the loop what woke this task
        off_loop._pool.shutdown()
        await asyncio.sleep(0)
        return kept()

    assert asyncio.run(failed()) is None


def test_judges_are_there_before_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "BEGIN_SECONDS", 0)

    async def begun() -> list[bool]:
        pool = ValidationPool(("sleep", "1000"), count=2)
        pool.begin()
        assert pool._beginning is not None
        await pool._beginning
        started = [judge._process is not None for judge in pool._all]
        await pool.close()
        return started

    assert asyncio.run(begun()) == [True, True]


def test_judges_that_nobody_needed_need_not_begin() -> None:
    async def begun() -> list[bool]:
        pool = ValidationPool(("sleep", "1000"), count=2)
        pool.begin()
        await pool.close()
        return [judge._process is not None for judge in pool._all]

    assert asyncio.run(begun()) == [False, False]


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
