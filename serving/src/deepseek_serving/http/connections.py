"""Which connections are taken, and their TLS handshakes: the way in before any protocol.

asyncio's own server takes all connections that wait in one turn of the event loop, makes all that
serves one for each of them, and leaves those whose handshake failed to the garbage collector. Here
a turn takes a few; nothing is done for one before its client has sent something, which those who
mean it do at once; handshakes are bounded in number and time, and what a network may have of them
without ever asking anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import struct
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import uvicorn
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deepseek_serving.errors import SettingsError

logger = logging.getLogger(__name__)

# that wait to be taken, as far as net.core.somaxconn has them
BACKLOG = 1024
# taken before others have a turn of the event loop
AT_ONCE = 8
# without file descriptors or memory for another connection
RETRY_SECONDS = 1.0
# for its first byte
MUTE_SECONDS = 30.0
# Each takes a third of a megabyte, for which nobody has had to authenticate.
MOST_HANDSHAKES = 64
# An honest client's takes milliseconds; one that takes longer ends for those that wait.
PATIENCE_SECONDS = 1.0
HANDSHAKE_SECONDS = 10.0
# Connections of a network that have said something and have had no request: so many at once, and so
# many a second. A gateway never has as many, since handshakes are bounded.
MOST_SILENT = 256
SILENT_PER_SECOND = 20.0
MOST_NETWORKS = 4096
WARN_SECONDS = 1.0
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# closed at once and without a trace: the other side gets a reset
NO_LINGER = struct.pack("ii", 1, 0)


def network(host: str) -> bytes:
    """Who connects: an address of IPv4, or the /64 of one of IPv6, all of which a client has."""
    try:
        return socket.inet_pton(socket.AF_INET, host)
    except OSError:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        is_mapped = packed[:12] == bytes(10) + b"\xff\xff"
        return packed[12:] if is_mapped else packed[:8]


class Attempts:
    """How many connections each network made on which no request has begun."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # and when that was counted; the network that was longest silent comes first
        self._made: dict[bytes, tuple[float, float]] = {}

    def take(self, one: bytes) -> bool:
        """Count another connection; False: there are too many already."""
        now = self._clock()
        made, since = self._made.pop(one, (0.0, now))
        made = max(0.0, made - (now - since) * SILENT_PER_SECOND)
        allowed = made <= MOST_SILENT - 1
        self._made[one] = (made + 1 if allowed else made, now)
        if len(self._made) > MOST_NETWORKS:
            del self._made[next(iter(self._made))]
        return allowed

    def give_back(self, one: bytes) -> None:
        """A request has begun on one of them."""
        made, since = self._made.get(one, (0.0, 0.0))
        if made:
            self._made[one] = (max(0.0, made - 1), since)


class Places:
    """Of one listener: so many connections, and of those that have said nothing as many again."""

    def __init__(self, most: int = 1024) -> None:
        self.most = most
        self._attempts = Attempts()
        self._greeting: set[asyncio.Protocol] = set()
        self._open: set[asyncio.Protocol] = set()
        # those of them on which no request has begun, the oldest first, and whose they are
        self._silent: dict[asyncio.Protocol, tuple[asyncio.Transport, bytes | None]] = {}
        self.refused = 0
        self._warned = 0.0

    @property
    def taken(self) -> int:
        return len(self._greeting) + len(self._open)

    def admit(self, host: str) -> bool:
        """Whether there is a place for another, for which the oldest silent one may end."""
        whose = network(host)
        if not self._attempts.take(whose):
            self.refuse("too many connections of %s have had no request", host)
            return False
        if self.taken >= self.most and self._silent:
            # a client with a request sends it at once
            oldest = next(iter(self._silent))
            transport, _whose = self._silent[oldest]
            self.leave(oldest)
            transport.abort()
        if self.taken >= self.most:
            self._attempts.give_back(whose)
            self.refuse("%d connections: no more are taken until one ends", self.most)
            return False
        return True

    def refuse(self, text: str, what: object) -> None:
        """Say why, now and then."""
        self.refused += 1
        if time.monotonic() - self._warned >= WARN_SECONDS:
            self._warned = time.monotonic()
            logger.warning(text, what)

    def greet(self, protocol: asyncio.Protocol) -> None:
        """It has a place until its handshake ends."""
        self._greeting.add(protocol)

    def give_up(self, protocol: asyncio.Protocol) -> None:
        """Its handshake has ended, and failed unless the protocol was told of the connection."""
        self._greeting.discard(protocol)

    def greeted(
        self, protocol: asyncio.Protocol, transport: asyncio.Transport, host: str | None
    ) -> None:
        self._greeting.discard(protocol)
        self._open.add(protocol)
        self._silent[protocol] = (transport, network(host) if host else None)

    def begun(self, protocol: asyncio.Protocol) -> None:
        """A request has."""
        _transport, whose = self._silent.pop(protocol, (None, None))
        if whose is not None:
            self._attempts.give_back(whose)

    def leave(self, protocol: asyncio.Protocol) -> None:
        self._open.discard(protocol)
        self._silent.pop(protocol, None)


class ConnectionState(Collector):
    """How many there are, read when Prometheus asks."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "deepseek_connections",
            "Connections, those at their TLS handshake included",
            value=self._places.taken,
        )
        yield CounterMetricFamily(
            "deepseek_connections_refused",
            "Connections closed before their TLS handshake",
            value=self._places.refused,
        )


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    connection.close()


class Handshakes:
    """Few at a time; others wait. Belongs to one event loop."""

    def __init__(
        self, places: Places, context: ssl.SSLContext | None, make: Callable[[], asyncio.Protocol]
    ) -> None:
        """`make`: the protocol of a connection; without a context there is no TLS."""
        self._places = places
        self._context = context
        self._make = make
        # and when they began, the oldest first
        self._going_on: dict[asyncio.Task[None], float] = {}
        self._waiting: deque[tuple[socket.socket, asyncio.Protocol]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: socket.socket, host: str) -> None:
        """Its client has sent something."""
        if self._places.admit(host):
            protocol = self._make()
            self._places.greet(protocol)
            self._waiting.append((connection, protocol))
            self._go_on()
        else:
            _reset(connection)

    def close(self) -> None:
        while self._waiting:
            connection, protocol = self._waiting.popleft()
            self._places.give_up(protocol)
            connection.close()
        for handshake in list(self._going_on):
            handshake.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _go_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            left = self._left()
            if left > 0:
                self._timer = asyncio.get_running_loop().call_later(left, self._go_on)
                return
            self._begin(*self._waiting.popleft())

    def _left(self) -> float:
        """Seconds until another may begin."""
        if len(self._going_on) < MOST_HANDSHAKES:
            return 0
        oldest, began = next(iter(self._going_on.items()))
        left = began + PATIENCE_SECONDS - asyncio.get_running_loop().time()
        if left <= 0:
            del self._going_on[oldest]
            oldest.cancel()
        return left

    def _begin(self, connection: socket.socket, protocol: asyncio.Protocol) -> None:
        loop = asyncio.get_running_loop()
        handshake = loop.create_task(self._shake_hands(connection, protocol))
        self._going_on[handshake] = loop.time()

        def ended(_handshake: asyncio.Task[None]) -> None:
            self._places.give_up(protocol)
            self._going_on.pop(handshake, None)
            self._go_on()

        handshake.add_done_callback(ended)

    async def _shake_hands(self, connection: socket.socket, protocol: asyncio.Protocol) -> None:
        seconds = None if self._context is None else HANDSHAKE_SECONDS
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=seconds,
            )
        except BaseException as error:
            # Nobody else tells it, and it and its parser name each other.
            protocol.connection_lost(ConnectionAbortedError())
            if not isinstance(error, OSError):
                raise
            # So do the error and the frames that it came through.
            traceback.clear_frames(error.__traceback__)


class Listener:
    """Takes connections, and holds them until their clients say something.

    Belongs to one event loop.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._listening: list[socket.socket] = []
        self._handshakes: Handshakes | None = None
        # of those that have said nothing: when they were taken, the oldest first
        self._mute: dict[socket.socket, float] = {}
        self._ending: asyncio.TimerHandle | None = None

    async def bind(self, host: str, port: int) -> None:
        """Listen there; what connects waits until it begins. Raises OSError."""
        # asyncio knows what addresses a name has, and how to share a port with IPv6
        bound = await asyncio.get_running_loop().create_server(
            asyncio.Protocol, host, port, start_serving=False
        )
        self._listening = [one.dup() for one in bound.sockets]
        bound.close()
        for listening in self._listening:
            listening.setblocking(False)
            listening.listen(BACKLOG)

    def begin(self, handshakes: Handshakes) -> None:
        """Take connections."""
        self._handshakes = handshakes
        for listening in self._listening:
            self._resume(listening)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for listening in self._listening:
            loop.remove_reader(listening)
            listening.close()
        for connection in list(self._mute):
            self._forget(connection)
            connection.close()
        if self._ending is not None:
            self._ending.cancel()
        if self._handshakes is not None:
            self._handshakes.close()

    def _resume(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listening, self._take, listening)

    def _take(self, listening: socket.socket) -> None:
        """A few of those that wait."""
        for _connection in range(AT_ONCE):
            try:
                connection, address = listening.accept()
            except OSError as error:
                # others: none waits, or it is gone again
                if error.errno in EXHAUSTED:
                    logger.warning("a connection cannot be taken: %s", error.strerror)
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(listening)
                    loop.call_later(RETRY_SECONDS, self._resume, listening)
                return
            connection.setblocking(False)
            self._hear(connection, str(address[0]))

    def _hear(self, connection: socket.socket, host: str) -> None:
        """Whether it has said something."""
        try:
            said = connection.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            self._hold(connection, host)
            return
        except OSError:
            said = b""
        self._forget(connection)
        if said and self._handshakes is not None:
            self._handshakes.add(connection, host)
        else:
            connection.close()

    def _hold(self, connection: socket.socket, host: str) -> None:
        if connection in self._mute:
            return
        loop = asyncio.get_running_loop()
        if self._ending is None:
            self._ending = loop.call_later(MUTE_SECONDS, self._end_mute)
        if len(self._mute) >= self._places.most:
            self._places.refuse("%d connections say nothing: the oldest ends", len(self._mute))
            oldest = next(iter(self._mute))
            self._forget(oldest)
            _reset(oldest)
        self._mute[connection] = loop.time()
        loop.add_reader(connection, self._hear, connection, host)

    def _forget(self, connection: socket.socket) -> None:
        if self._mute.pop(connection, None) is not None:
            asyncio.get_running_loop().remove_reader(connection)

    def _end_mute(self) -> None:
        """Those whose time is over."""
        loop = asyncio.get_running_loop()
        self._ending = None
        for connection, taken in list(self._mute.items()):
            end = taken + MUTE_SECONDS
            if end > loop.time():
                self._ending = loop.call_at(end, self._end_mute)
                return
            self._forget(connection)
            connection.close()


class ListeningServer(uvicorn.Server):
    """uvicorn with a listener of ours."""

    def __init__(self, config: uvicorn.Config, places: Places) -> None:
        super().__init__(config)
        self._places = places
        self._listener: Listener | None = None

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises SettingsError where it cannot listen."""
        self._listener = Listener(self._places)
        host, port = self.config.host, self.config.port
        refusal = None
        try:
            await self._listener.bind(host, port)
        except OSError as error:
            refusal = SettingsError(f"{host}:{port}: cannot listen there: {error.strerror}")
        # all that it does, but for listening
        await super().startup(sockets=[])
        if refusal is not None:
            await self.lifespan.shutdown()
            raise refusal
        self._listener.begin(Handshakes(self._places, self.config.ssl, self._protocol))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._listener is not None:
            self._listener.close()
        await super().shutdown(sockets)
