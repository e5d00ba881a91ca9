"""Which connections are taken, how many handshakes go on, and what those that fail leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
import ssl

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from support import Authority, free_port
from test_connections import answers, connect, ended, listening
from waiting import connect_plain, until

from deepseek_serving.errors import SettingsError
from deepseek_serving.http import connections
from deepseek_serving.http.connections import (
    Attempts,
    Handshakes,
    Listener,
    ListeningServer,
    Places,
    network,
)


def is_closed(connection: socket.socket) -> bool:
    """Within the time that it may wait."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:0:0:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%1", "fe80::2", True),
    ],
)
def test_a_network_is_an_address_or_a_64(one: str, other: str, same: bool) -> None:
    assert (network(one) == network(other)) is same


class TestAttempts:
    """With a clock of its own."""

    now = 0.0

    def make(self) -> Attempts:
        return Attempts(lambda: self.now)

    def test_a_network_that_never_asks_gets_no_more_at_once_and_few_afterwards(self) -> None:
        attempts = self.make()
        one = network("192.0.2.1")
        assert all(attempts.take(one) for _time in range(connections.MOST_SILENT))
        assert not attempts.take(one)
        assert attempts.take(network("192.0.2.2"))
        self.now = 1.0
        several = int(connections.SILENT_PER_SECOND)
        assert [attempts.take(one) for _time in range(several + 1)] == [True] * several + [False]

    def test_one_whose_connections_have_requests_gets_as_many_as_it_wants(self) -> None:
        attempts = self.make()
        one = network("192.0.2.1")
        for _time in range(4 * connections.MOST_SILENT):
            assert attempts.take(one)
            attempts.give_back(one)

    def test_no_more_networks_are_remembered_than_fit(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "MOST_NETWORKS", 2)
        monkeypatch.setattr(connections, "MOST_SILENT", 1)
        attempts = self.make()
        one, two, three = (network(f"192.0.2.{number}") for number in range(3))
        assert attempts.take(one)
        assert attempts.take(two)
        assert not attempts.take(one)
        # in the place of the one that was longest silent
        assert attempts.take(three)
        assert not attempts.take(one)
        assert attempts.take(two)


def test_connections_that_say_nothing_give_way_and_hold_up_nobody(authority: Authority) -> None:
    with listening(authority, Places(2)) as port, contextlib.ExitStack() as stack:
        mute = [stack.enter_context(connect_plain(port)) for _number in range(3)]
        assert is_closed(mute[0])
        # they have no place of those that speak
        with connect(port, authority) as one, connect(port, authority) as other:
            assert answers(one)
            assert answers(other)
        mute[2].settimeout(0)
        with pytest.raises(BlockingIOError):
            mute[2].recv(1)


def test_a_connection_that_says_nothing_ends_after_a_while(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MUTE_SECONDS", 0.2)
    with listening(authority) as port, connect_plain(port) as one:
        assert is_closed(one)
        with connect_plain(port) as another:
            assert is_closed(another)


def test_a_handshake_that_stands_still_ends_for_another_client(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_HANDSHAKES", 2)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.3)
    places = Places()
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(listening(authority, places))
        first, second = (stack.enter_context(connect_plain(port)) for _number in range(2))
        first.sendall(b"\x16")
        # which of them began first is decided by the event loop otherwise
        until(lambda: places.taken == 1)
        second.sendall(b"\x16")
        with connect(port, authority) as honest:
            assert answers(honest)
        assert is_closed(first)
        second.settimeout(0)
        with pytest.raises(BlockingIOError):
            second.recv(1)


def test_no_more_handshakes_go_on_than_may_and_those_that_wait_have_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MOST_HANDSHAKES", 3)
    begun: list[socket.socket] = []
    end: list[asyncio.Event] = []

    async def shake_hands(_self: Handshakes, connection: socket.socket, _protocol: object) -> None:
        begun.append(connection)
        end.append(asyncio.Event())
        await end[-1].wait()

    async def turns() -> None:
        for _turn in range(20):
            await asyncio.sleep(0)

    async def shake() -> None:
        places = Places(6)
        handshakes = Handshakes(places, None, asyncio.Protocol)
        ours = [socket.socket() for _number in range(7)]
        for connection in ours:
            handshakes.add(connection, "192.0.2.1")
        await turns()
        assert begun == ours[:3]
        assert (places.taken, places.refused) == (6, 1)
        assert ours[6].fileno() < 0
        end[1].set()
        await turns()
        assert begun == ours[:4]
        assert places.taken == 5
        handshakes.close()
        await turns()
        assert places.taken == 0
        for connection in ours:
            connection.close()

    monkeypatch.setattr(Handshakes, "_shake_hands", shake_hands)
    asyncio.run(shake())


def test_a_network_whose_handshakes_fail_is_turned_away_before_the_next(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_SILENT", 3)
    monkeypatch.setattr(connections, "SILENT_PER_SECOND", 0)
    with listening(authority) as port:
        for _time in range(6):
            with connect(port, authority) as asks:
                assert answers(asks)
        for _time in range(3):
            with connect_plain(port) as unknown:
                unknown.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert is_closed(unknown)
        with pytest.raises(OSError, match=r"reset|EOF|closed"):
            connect(port, authority)


def test_what_fails_leaves_nothing_to_the_garbage_collector(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left() -> int:
        kinds = {"CheckedProtocol", "SSLProtocol"}
        return sum(type(one).__name__ in kinds for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        with listening(authority) as port:
            with connect_plain(port) as fails:
                fails.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert is_closed(fails)
            with connect_plain(port) as hangs_up:
                hangs_up.sendall(b"\x16")
            stranger = ssl.create_default_context(cafile=authority.ca)
            with (
                connect_plain(port) as unknown,
                stranger.wrap_socket(unknown, server_hostname="127.0.0.1") as wrapped,
            ):
                assert ended(wrapped)
            monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.1)
            with connect_plain(port) as stands_still:
                stands_still.sendall(b"\x16")
                assert is_closed(stands_still)
            until(lambda: left() == 0)
    finally:
        gc.enable()


class Busy:
    """A listening socket at which more wait than can be taken."""

    def __init__(self, error: int | None = None) -> None:
        self.error = error
        self.taken: list[socket.socket] = []
        self.others: list[socket.socket] = []
        # for the event loop
        self.itself = socket.socket()

    def fileno(self) -> int:
        return self.itself.fileno()

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        if self.error:
            raise OSError(self.error, "no more")
        ours, theirs = socket.socketpair()
        self.taken.append(ours)
        self.others.append(theirs)
        return ours, ("192.0.2.1", 1)

    def close(self) -> None:
        for one in (*self.taken, *self.others, self.itself):
            one.close()


def test_one_turn_takes_a_few_however_many_wait() -> None:
    async def take() -> int:
        listener, busy = Listener(Places()), Busy()
        listener._take(busy)  # type: ignore[arg-type]
        listener.close()
        busy.close()
        return len(busy.taken)

    assert asyncio.run(take()) == connections.AT_ONCE


def test_without_descriptors_it_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RETRY_SECONDS", 0.01)

    async def take() -> None:
        listener, busy = Listener(Places()), Busy(errno.EMFILE)
        loop = asyncio.get_running_loop()
        loop.add_reader(busy, int)
        listener._take(busy)  # type: ignore[arg-type]
        # until then the event loop would be told of it again and again
        assert not loop.remove_reader(busy)
        for _turn in range(500):
            await asyncio.sleep(0.01)
            if loop.remove_reader(busy):
                break
        else:
            raise AssertionError("it is not tried again")
        busy.close()

    asyncio.run(take())


def test_a_port_that_is_taken_is_named() -> None:
    ends: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        for _part in range(2):
            message = await receive()
            ends.append(message["type"])
            await send({"type": message["type"] + ".complete"})

    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, http="h11")
        server = ListeningServer(config, Places())
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}: cannot listen there"):
            asyncio.run(server.serve())
    # what the application had begun, it could end
    assert ends == ["lifespan.startup", "lifespan.shutdown"]
