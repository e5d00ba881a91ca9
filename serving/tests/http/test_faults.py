"""What goes wrong around the service: slow clients, many clients, full disks, odd clocks, hangs."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from support import (
    MODEL,
    Authority,
    Running,
    Token,
    command,
    free_port,
    serve,
    serve_app,
    settings_text,
)
from test_connections import connect
from waiting import PATIENCE, connect_plain, http_client, until

from deepseek_serving.backends.local import Service
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.http import tls
from deepseek_serving.http.app import create_app
from deepseek_serving.http.connections import ListeningServer, Places
from deepseek_serving.http.tls import checked_protocol, server_context
from deepseek_serving.policy import keys
from deepseek_serving.policy.keys import KeyRing
from deepseek_serving.runtime import Candidates
from deepseek_serving.server import Server
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "What is a release?"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture
def port(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The service's connections, in front of an application that reads what it gets."""
    monkeypatch.setattr(tls, "READ_SECONDS", 0.4)
    context = server_context(*authority.issue("inference-1"), authority.ca)

    async def read(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def slow(_request: Request) -> Response:
        # longer than a request may take to come
        await asyncio.sleep(2 * tls.READ_SECONDS)
        return PlainTextResponse("slow")

    places = Places()
    number = free_port()
    config = uvicorn.Config(
        Starlette(routes=[Route("/", read, methods=["GET", "POST"]), Route("/slow", slow)]),
        host="127.0.0.1",
        port=number,
        http=checked_protocol({"gateway-1"}, places),
        ssl_context_factory=lambda _config, _default: context,
        log_config=None,
        lifespan="off",
        ws="none",
    )
    server = ListeningServer(config, places)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield number
    server.should_exit = True
    thread.join(PATIENCE)


def drip(connection: ssl.SSLSocket, data: bytes) -> bool:
    """Send a byte now and then; whether the server gives up before it has all of them."""
    connection.settimeout(0.05)
    for place in range(len(data)):
        try:
            connection.sendall(data[place : place + 1])
            if connection.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except (ConnectionError, ssl.SSLError):
            return True
    return False


WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "slow"),
    [
        (HEAD, b"x" * 200),
        (WHOLE, b"GET / HTTP/1.1\r\nX-Slow: " + b"x" * 200),
        (WHOLE, HEAD + b"x" * 200),
    ],
)
def test_a_request_that_drips_in_is_given_up_and_others_are_answered(
    port: int, authority: Authority, first: bytes, slow: bytes
) -> None:
    with connect(port, authority) as dripping, connect(port, authority) as other:
        began = time.monotonic()
        dripping.sendall(first)
        if first is WHOLE:
            assert dripping.recv(1000).startswith(b"HTTP/1.1 200")
        with ThreadPoolExecutor(1) as threads:
            given_up = threads.submit(drip, dripping, slow)
            other.sendall(HEAD.replace(b"1000", b"4") + b"body")
            assert other.recv(1000).startswith(b"HTTP/1.1 200")
        assert given_up.result()
        # not before its time
        assert time.monotonic() - began > 0.3


def test_time_between_requests_is_not_bounded(port: int, authority: Authority) -> None:
    with connect(port, authority) as connection:
        for _request in range(2):
            connection.sendall(HEAD.replace(b"1000", b"4") + b"body")
            answer = b""
            while not answer.endswith(b"\r\n\r\n4"):
                answer += connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.6)


def until_closed(connection: ssl.SSLSocket) -> bytes:
    answer = b""
    with suppress(ConnectionError, ssl.SSLError):
        while some := connection.recv(2**16):
            answer += some
    return answer


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nX-Long: ",
        b"GET /",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: ",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;extension=",
    ],
)
def test_a_head_may_not_take_all_memory(
    port: int, authority: Authority, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(tls, "READ_SECONDS", PATIENCE)
    with connect(port, authority) as connection:
        connection.sendall(sent)
        taken = 0
        with suppress(ConnectionError, ssl.SSLError):
            while taken < 2**24:
                connection.sendall(b"x" * 2**14)
                taken += 2**14
        assert taken < 2**24


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Host: x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(port: int, authority: Authority, sent: bytes) -> None:
    with connect(port, authority) as connection:
        connection.sendall(sent)
        answer = until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"Invalid HTTP request received.")


def test_another_protocol_is_not_spoken(port: int, authority: Authority) -> None:
    """The request is answered, and the connection, on which nothing more is read, not kept."""
    with connect(port, authority) as connection:
        upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
        connection.sendall(WHOLE.replace(b"\r\n\r\n", b"\r\n" + upgrade + b"\r\n"))
        answer = until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer


def test_requests_may_come_before_the_answers_but_not_any_number(
    port: int, authority: Authority
) -> None:
    with connect(port, authority) as connection:
        connection.sendall(WHOLE * 5)
        answer = b""
        while answer.count(b"HTTP/1.1 200") < 5:
            answer += connection.recv(1000)
    with connect(port, authority) as connection:
        connection.sendall(WHOLE * 1000)
        assert until_closed(connection).count(b"HTTP/1.1 200") < 1000


def test_a_client_that_waits_for_an_answer_is_not_slow(
    port: int, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "READ_SECONDS", 2)
    with connect(port, authority) as connection:
        connection.sendall(WHOLE.replace(b"/", b"/slow", 1) + WHOLE[:20])
        answer = b""
        while not answer.endswith(b"slow"):
            some = connection.recv(1000)
            assert some
            answer += some
        connection.sendall(WHOLE[20:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_an_incomplete_request_behind_another_is_given_up_too(
    port: int, authority: Authority
) -> None:
    with connect(port, authority) as connection:
        connection.sendall(WHOLE.replace(b"/", b"/slow", 1) + HEAD)
        assert until_closed(connection).startswith(b"HTTP/1.1 200")


def test_ten_thousand_connections(
    tmp_path: Path, signed_store: Path, token: Token, authority: Authority
) -> None:
    """They cannot take the service's memory, and it answers meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(10_000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, many + 500), hard))
    text = settings_text(signed_store, token, authority)
    text = text.replace("[model]", "connections = 200\n\n[model]")
    try:
        with ExitStack() as stack:
            running = stack.enter_context(serve(tmp_path, text, as_command=True))
            resident = _resident(running)
            port = int(running.url.rsplit(":", 1)[1])
            for _number in range(many):
                stack.enter_context(connect_plain(port))
            until(lambda: _descriptors(running) < 400)
            assert _resident(running) - resident < 64 * 2**20
            context = authority.client("gateway-1")
            with http_client(running.url, verify=context) as client:
                assert client.post(CHAT, json=ASK).status_code == 200
            log = running.log.read_text(encoding="utf-8")
            assert "200 connections say nothing: the oldest ends" in log
            assert log.count("say nothing") < 20 + many // 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _resident(running: Running) -> int:
    pages = Path(f"/proc/{running.process.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def _descriptors(running: Running) -> int:
    return len(os.listdir(f"/proc/{running.process.pid}/fd"))


class Hanging:
    """An engine that, once told to, does not come back from a step until it is let go."""

    slots, max_len = 1, 200

    def __init__(self) -> None:
        self.hangs = False
        self.reached = threading.Event()
        self.let_go = threading.Event()

    def _answer(self, count: int) -> Candidates:
        best = np.full((count, 1), 5, dtype=np.int64)
        return Candidates(np.zeros((count, 1), dtype=np.float32), best)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        return self._answer(1)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        if self.hangs:
            self.reached.set()
            self.let_go.wait(PATIENCE)
        return self._answer(len(tokens))

    def logits(self) -> npt.NDArray[np.float32]:
        return np.zeros((1, 1024), dtype=np.float32)

    def reset(self) -> None:
        pass

    def clear(self, slot: int) -> None:
        pass


def test_an_engine_that_hangs_is_not_ready_and_the_watchdog_hears_nothing(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Hanging()
    scheduler = Scheduler(engine, Limits(stuck_seconds=0.3))
    service = Service(Release(MODEL, "1", "0" * 64, graph), scheduler, ChatTokenizer(graph))
    scheduler.start()
    port = free_port()
    config = uvicorn.Config(create_app(service), host="127.0.0.1", port=port, log_config=None)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        server = Server(config, Places(), service, None)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        assert listener.recv(64) == b"READY=1"
        assert [listener.recv(64) for _beat in range(2)] == [b"WATCHDOG=1"] * 2
        engine.hangs = True
        url = f"http://127.0.0.1:{port}"
        http = stack.enter_context(http_client(url))
        asking = threading.Thread(target=http.post, args=(CHAT,), kwargs={"json": ASK}, daemon=True)
        asking.start()
        assert engine.reached.wait(PATIENCE)
        until(lambda: http.get("/readyz").status_code == 503)
        assert http.get("/healthz").status_code == 200
        listener.setblocking(False)
        while _beats(listener):
            pass
        time.sleep(1.5)
        assert not _beats(listener)
        engine.hangs = False
        engine.let_go.set()
        asking.join(PATIENCE)
        until(lambda: http.get("/readyz").status_code == 200)
        until(lambda: _beats(listener))
        server.should_exit = True
        thread.join(PATIENCE)


@pytest.mark.parametrize("gone", [False, True])
def test_a_systemd_that_does_not_listen_holds_up_nobody(
    signed_store: Path, token: Token, authority: Authority, tmp_path: Path, gone: bool
) -> None:
    with (
        serve(tmp_path, settings_text(signed_store, token, authority)) as running,
        http_client(running.url, verify=authority.client("gateway-1")) as client,
    ):
        notify = tmp_path / "notify"
        if gone:
            notify.unlink()
        else:
            _fill(notify)
        until(lambda: "systemd was not told WATCHDOG=1" in running.log.read_text("utf-8"))
        assert client.post(CHAT, json=ASK).status_code == 200
    assert running.process.returncode == -signal.SIGTERM


def _fill(address: Path) -> None:
    """Send to a socket until it takes nothing from anybody.

    A sender is also stopped by its own send buffer, which is full before the queue is where
    net.unix.max_dgram_qlen is large: the queue is full when a new sender's first message is
    refused. What was sent stays in the queue after its sender has closed.
    """
    while _sent_until_refused(address):
        pass


def _sent_until_refused(address: Path) -> int:
    """How many messages one new sender gets rid of."""
    sent = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sender.sendto(b"EXTEND_TIMEOUT_USEC=1", str(address))
                sent += 1
    return sent


def _beats(listener: socket.socket) -> bool:
    try:
        return listener.recv(64) == b"WATCHDOG=1"
    except BlockingIOError:
        return False


def test_a_full_disk_leaves_the_keys_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = keys.add(path, "the first")
    before = path.read_bytes()

    def no_space() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), len(before)))

    done = subprocess.run(
        [command("deepseek-key"), "--file", str(path), "new", "--name", "one too many"],
        preexec_fn=no_space,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"deepseek-key: {path}: cannot be written: File too large\n"
    assert done.stdout == ""
    assert path.read_bytes() == before
    assert KeyRing(path).find(key) is not None
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("jump", [-40 * 365 * 86400, 40 * 365 * 86400])
def test_the_clock_may_jump(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    """Deadlines and rates count seconds that pass; only when a key expires is a date."""
    path = tmp_path / "keys.json"
    limited = keys.add(path, "limited", requests_per_minute=3)
    engine = Hanging()
    scheduler = Scheduler(engine)
    release = Release(MODEL, "1", "0" * 64, graph)
    service = Service(release, scheduler, ChatTokenizer(graph), timeout=PATIENCE)
    scheduler.start()
    real = time.time
    with (
        serve_app(create_app(service, KeyRing(path))) as url,
        http_client(url, headers={"authorization": f"Bearer {limited}"}) as client,
    ):
        assert client.post(CHAT, json={**ASK, "max_tokens": 2}).status_code == 200
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        statuses = [
            client.post(CHAT, json={**ASK, "max_tokens": 2}).status_code for _request in range(3)
        ]
        assert statuses == [200, 200, 429]
        assert abs(client.get("/v1/models").json()["data"][0]["created"] - real()) < 10 * 86400


def test_the_body_of_a_refusal_is_json(port: int, authority: Authority) -> None:
    """A client whose certificate is not allowed is told so, and may read it."""
    with http_client(verify=authority.client("stranger")) as client:
        reply = client.get(f"https://127.0.0.1:{port}/")
    assert reply.status_code == 403
    assert json.loads(reply.text)["error"]["code"] == "client_not_allowed"
