"""Clients that connect and do nothing, or hang up in the middle."""

from __future__ import annotations

import contextlib
import gc
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from support import MODEL, Authority, Running, free_port
from test_app import ask, metric
from waiting import PATIENCE, connect_plain, http_client, until

from deepseek_serving.errors import SettingsError
from deepseek_serving.http import tls
from deepseek_serving.http.connections import ListeningServer, Places
from deepseek_serving.http.tls import checked_protocol, server_context


@contextlib.contextmanager
def listening(authority: Authority, places: Places | None = None) -> Iterator[int]:
    """The port of a server with the service's TLS."""
    context = server_context(*authority.issue("inference-1"), authority.ca)

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    places = places or Places()
    number = free_port()
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=number,
        http=checked_protocol({"gateway-1"}, places),
        ssl_context_factory=lambda _config, _default: context,
        log_config=None,
        lifespan="off",
    )
    server = ListeningServer(config, places)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield number
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


@pytest.fixture
def port(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of one that gives up silent connections soon."""
    monkeypatch.setattr(tls, "BEGIN_SECONDS", 0.3)
    with listening(authority) as number:
        yield number


def connect(port: int, authority: Authority) -> ssl.SSLSocket:
    plain = connect_plain(port)
    return authority.client("gateway-1").wrap_socket(plain, server_hostname="127.0.0.1")


def ended(connection: ssl.SSLSocket) -> bool:
    try:
        return connection.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        return True


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_on_which_no_request_begins_is_given_up(
    port: int, authority: Authority, sent: bytes
) -> None:
    with connect(port, authority) as connection:
        connection.sendall(sent)
        assert ended(connection)


def test_one_on_which_a_request_came_is_kept(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "BEGIN_SECONDS", 2)
    with listening(authority) as port, connect(port, authority) as connection:
        assert answers(connection)
        time.sleep(2.2)
        assert answers(connection)


def answers(connection: ssl.SSLSocket) -> bool:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection.recv(1000).startswith(b"HTTP/1.1 204")


def test_the_oldest_silent_connection_gives_its_place_to_a_new_one(authority: Authority) -> None:
    with (
        listening(authority, Places(2)) as port,
        connect(port, authority) as speaks,
        connect(port, authority) as silent,
    ):
        assert answers(speaks)
        with connect(port, authority) as new:
            assert answers(new)
            assert ended(silent)
            with pytest.raises(OSError, match=r"reset|EOF|closed"):
                connect(port, authority)
            assert answers(speaks)
            assert answers(new)


def test_a_connection_that_ended_is_not_kept_for_its_timers(authority: Authority) -> None:
    def left() -> int:
        return sum(type(one).__name__ == "CheckedProtocol" for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        with listening(authority) as port:
            with connect(port, authority) as speaks, connect(port, authority):
                assert answers(speaks)
                assert left() == 2
            until(lambda: not left())
    finally:
        gc.enable()


def test_a_storm_of_clients_that_hang_up_leaves_nothing_behind(
    service: Running, authority: Authority, client: httpx.Client
) -> None:
    body = ask("Tell me something", temperature=2, seed=1, max_tokens=400, stream=True, n=2)

    def hang_up(number: int) -> int:
        context = authority.client("gateway-1")
        with (
            http_client(service.url, verify=context) as storm,
            storm.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            if response.status_code == 200 and number % 2:
                next(response.iter_lines())
            return response.status_code

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(hang_up, range(60))) <= {200, 429}
    # every slot is given back
    until(lambda: not metric(client, "deepseek_slots_busy"))
    until(lambda: not metric(client, "deepseek_queue_requests"))
    reply = client.post("/v1/chat/completions", json=ask())
    assert (reply.status_code, reply.json()["model"]) == (200, MODEL)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Shake hands in memory; raise what the server says of the client."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(out, into, server_hostname="127.0.0.1")
    ours = server.wrap_bio(into, out, server_side=True)
    for _turn in range(4):
        with contextlib.suppress(ssl.SSLWantReadError):
            theirs.do_handshake()
        with contextlib.suppress(ssl.SSLWantReadError):
            ours.do_handshake()
            return
    raise AssertionError("the handshake did not end")


def test_a_revoked_client_is_refused(authority: Authority, tmp_path: Path) -> None:
    credentials = (*authority.issue("inference-1"), authority.ca)
    revoking = server_context(*credentials, authority.revoke("gateway-2"))
    handshake(revoking, authority.client("gateway-1"))
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        handshake(revoking, authority.client("gateway-2"))
    handshake(server_context(*credentials, authority.revoke()), authority.client("gateway-2"))
    (tmp_path / "none.crl").write_text("nothing")
    with pytest.raises(SettingsError, match="holds no revocation list"):
        server_context(*credentials, tmp_path / "none.crl")
