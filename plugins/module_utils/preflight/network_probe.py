# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a network does to real packets between two hosts: delay, loss, the largest packet, and the rate of a TCP stream.

One host answers (:func:`open_sockets`, :func:`detach`, :func:`serve`), the other asks (:func:`probe`). Both know a token.
UDP carries small echoes (delay, loss) and large ones that may not be fragmented (path MTU), TCP a transfer in each direction.

Whoever does not know the token gets nothing: a datagram without the right MAC has no answer, a connection without it is closed,
and neither is looked at unless it comes from an expected address. The token itself is never sent. An answer is never longer
than its question, so that nobody can be flooded by it; transfers are limited in time and bytes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import hashlib
import hmac
import ipaddress
import math
import os
import pwd
import secrets
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# Linux's numbers, which Python has no names for (linux/in.h, linux/in6.h). PROBE sets DF and ignores the path MTU that the kernel
# remembers, so that each measurement is a new one.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE, _IPV6_DONTFRAG = 10, 23, 3, 62

_MAGIC = b"DSP1"
# magic, kind, bytes of the datagram, sequence number
_HEADER = struct.Struct("!4scxHQ")
_SHORT_MAC = 16
_MAC = 32
_NONCE = 16
_COUNT = struct.Struct("!QQ")
_CREDENTIALS = struct.Struct("3i")  # pid, uid and gid (unix(7))
SMALLEST = _HEADER.size + _SHORT_MAC
_LARGEST = 65507  # of a UDP datagram over IPv4
_ECHO, _ANSWER, _TOO_BIG = b"E", b"A", b"B"
_HELLO, _UPLOAD, _DOWNLOAD, _QUIT = b"h", b"u", b"d", b"q"

_PING_BYTES = 64
_CHUNK = 1 << 20
_CONNECT_SECONDS = 2.0
_ECHO_SECONDS = 0.3
# After so many echoes without any answer there will be none.
_SILENT = 5
_PAUSE_SECONDS = 0.001
_CONNECTIONS = 16
# Bytes of the headers of IP and UDP, and the smallest MTU that the protocol allows (RFC 791, RFC 8200).
_OVERHEAD = {4: 28, 6: 48}
_FLOOR = {4: 576, 6: 1280}


@dataclass(frozen=True)
class Limits:
    """How long the answering side lives, in seconds, and how much one transfer may take, in seconds and bytes."""

    seconds: float
    transfer_seconds: float
    transfer_bytes: int


@dataclass(frozen=True)
class Target:
    """An address to probe, from which address of this host, and the MTU of the NIC that has the latter."""

    name: str
    zone: str
    address: str
    source: str
    mtu: int


@dataclass
class Result:
    """What was found out of a target.

    ``problem`` says why nothing, or not everything, could be measured, and ``blocked`` is the protocol that had no answer (``tcp``, ``udp`` or
    empty). ``rtt_ms`` has min, median, p99 and max; ``path_mtu`` is None when no size was answered, and ``bandwidth_mbps`` has the
    rate in both directions as seen from here, in 10^6 bits per second.
    """

    name: str
    zone: str
    source: str
    address: str
    port: int
    mtu: int
    problem: str = ""
    blocked: str = ""
    sent: int = 0
    lost: int = 0
    rtt_ms: dict[str, float] = field(default_factory=dict)
    path_mtu: int | None = None
    bandwidth_mbps: dict[str, float] = field(default_factory=dict)


def mac(token: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104) of all parts together; each has a length that both sides know."""
    return hmac.new(token, b"".join(parts), hashlib.sha256).digest()


def packet(token: bytes, kind: bytes, sequence: int, size: int) -> bytes:
    """Make a datagram of exactly *size* bytes, at least SMALLEST."""
    header = _HEADER.pack(_MAGIC, kind, size, sequence)
    return (header + mac(token, header)[:_SHORT_MAC]).ljust(size, b"\0")


def read_packet(token: bytes, data: bytes) -> tuple[bytes, int] | None:
    """Give kind and sequence number of a datagram, or None where it was not made with the token or is not whole."""
    if len(data) < SMALLEST:
        return None
    header, code = data[: _HEADER.size], data[_HEADER.size : SMALLEST]
    magic, kind, size, sequence = _HEADER.unpack(header)
    if magic != _MAGIC or size != len(data):
        return None
    if not hmac.compare_digest(code, mac(token, header)[:_SHORT_MAC]):
        return None
    return kind, sequence


# The side that answers.


@dataclass
class Sockets:
    """Listening sockets, and for each address without one the reason.

    *control* is for the *owner* on this host alone, whom no packet filter keeps from it.
    """

    control: socket.socket
    owner: int
    tcp: list[socket.socket] = field(default_factory=list)
    udp: list[socket.socket] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)

    def all(self) -> list[socket.socket]:
        return [self.control, *self.tcp, *self.udp]

    def close(self) -> None:
        for one in self.all():
            one.close()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET


def _control_name(token: bytes) -> bytes:
    """Name of a socket in Linux's abstract namespace (unix(7)), which is no file and goes with its process."""
    return b"\0deepseek-probe-" + mac(token, b"control").hex().encode()


def open_sockets(addresses: Sequence[str], port: int, token: bytes) -> Sockets:
    """Listen on a port of each address, by TCP and UDP."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.bind(_control_name(token))
    control.listen(1)
    control.setblocking(False)
    sockets = Sockets(control, os.geteuid())
    for address in dict.fromkeys(addresses):
        opened: list[socket.socket] = []
        try:
            # A kernel without IPv6 has no such sockets at all.
            opened.append(tcp := socket.socket(_family(address), socket.SOCK_STREAM))
            opened.append(udp := _datagram_socket(address))
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((address, port))
            tcp.listen(_CONNECTIONS)
            udp.bind((address, port))
        except OSError as error:
            sockets.errors[address] = _reason(error)
            for one in opened:
                one.close()
            continue
        tcp.setblocking(False)
        udp.setblocking(False)
        sockets.tcp.append(tcp)
        sockets.udp.append(udp)
    return sockets


def _datagram_socket(address: str) -> socket.socket:
    """Make a UDP socket whose datagrams are never fragmented."""
    family = _family(address)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
    else:
        udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    return udp


def detach(work: Callable[[], None], keep: Sequence[socket.socket], seconds: float) -> None:
    """Do *work* in a process of its own, and return at once.

    The process keeps nothing open but the sockets, belongs to no session, is the user nobody where it was started by root,
    and is ended by the kernel after *seconds* whatever it does.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    status = 1
    try:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(math.ceil(seconds) + 1)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            _let_go([one.fileno() for one in keep])
            work()
        status = 0
    finally:
        # not sys.exit: what the parent has registered for its end is not this process's
        os._exit(status)


def _let_go(keep: Sequence[int]) -> None:
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number not in keep:
            with contextlib.suppress(OSError):
                os.close(number)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)


def serve(sockets: Sockets, token: bytes, peers: Sequence[str], limits: Limits) -> None:
    """Answer the peers until the owner says that it is enough, or the time is over; then nothing listens any more."""
    known = frozenset(map(ipaddress.ip_address, peers))
    service = _Service(token, known, limits, sockets.owner)
    deadline = time.monotonic() + limits.seconds
    with contextlib.closing(sockets), selectors.DefaultSelector() as selector:
        for tcp in sockets.tcp:
            selector.register(tcp, selectors.EVENT_READ, service.accept)
        for udp in sockets.udp:
            selector.register(udp, selectors.EVENT_READ, service.echo)
        selector.register(sockets.control, selectors.EVENT_READ, service.accept_control)
        while not service.over.is_set() and (left := deadline - time.monotonic()) > 0:
            for key, _events in selector.select(left):
                if key.data:
                    key.data(key.fileobj)


class _Service:
    """What the answering side does with a datagram and with a connection."""

    def __init__(self, token: bytes, peers: frozenset[Any], limits: Limits, owner: int) -> None:
        self.token, self.peers, self.limits, self.owner = token, peers, limits, owner
        self.over = threading.Event()
        self.slots = threading.BoundedSemaphore(_CONNECTIONS + 2 * len(peers))
        # a transfer in each direction for each peer, and once more for a second run
        self.transfers = threading.BoundedSemaphore(max(1, 4 * len(peers)))

    def echo(self, udp: socket.socket) -> None:
        try:
            data, origin = udp.recvfrom(_LARGEST + 1)
        except OSError:
            # the ICMP answer to an earlier datagram of ours
            return
        if ipaddress.ip_address(origin[0]) not in self.peers:
            return
        read = read_packet(self.token, data)
        if read is None or read[0] != _ECHO:
            return
        try:
            udp.sendto(packet(self.token, _ANSWER, read[1], len(data)), origin)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                with contextlib.suppress(OSError):
                    udp.sendto(packet(self.token, _TOO_BIG, read[1], SMALLEST), origin)

    def accept(self, tcp: socket.socket) -> None:
        try:
            connection, origin = tcp.accept()
        except OSError:
            return
        known = ipaddress.ip_address(origin[0]) in self.peers
        if not known or not self.slots.acquire(blocking=False):
            connection.close()
            return
        kinds = (_HELLO, _UPLOAD, _DOWNLOAD)
        threading.Thread(target=self._talk, args=(connection, kinds), daemon=True).start()

    def accept_control(self, control: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _origin = control.accept()
            who = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(who)[1] == self.owner and self.slots.acquire(blocking=False):
                self._talk(connection, (_QUIT,))
            else:
                connection.close()

    def _talk(self, connection: socket.socket, kinds: Sequence[bytes]) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(_CONNECT_SECONDS)
                self._answer(connection, kinds)
        finally:
            self.slots.release()

    def _answer(self, connection: socket.socket, kinds: Sequence[bytes]) -> None:
        nonce = secrets.token_bytes(_NONCE)
        connection.sendall(_MAGIC + nonce)
        request = _receive(connection, 1 + _MAC)
        kind = request[:1]
        known = hmac.compare_digest(request[1:], mac(self.token, b"c", nonce, kind))
        if not known or kind not in kinds:
            return
        connection.sendall(mac(self.token, b"s", nonce, kind))
        if kind == _QUIT:
            self.over.set()
        elif kind in (_UPLOAD, _DOWNLOAD) and self.transfers.acquire(blocking=False):
            if kind == _DOWNLOAD:
                _send_for(connection, self.limits)
                return
            count = _COUNT.pack(*_receive_for(connection, self.limits))
            connection.sendall(count + mac(self.token, b"s", nonce, count))


def _receive(connection: socket.socket, size: int) -> bytes:
    """Receive exactly *size* bytes; raises ConnectionError when the other side ends before."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the connection was closed")
        data += part
    return data


def _send_for(connection: socket.socket, limits: Limits) -> None:
    """Send as fast as possible, within the limits, and say that it is all."""
    block = memoryview(bytes(_CHUNK))
    start, sent = time.monotonic(), 0
    while sent < limits.transfer_bytes and time.monotonic() - start < limits.transfer_seconds:
        sent += connection.send(block[: limits.transfer_bytes - sent])
    connection.shutdown(socket.SHUT_WR)


def _receive_for(connection: socket.socket, limits: Limits) -> tuple[int, int]:
    """Receive to the end, or for as long as a transfer may take; gives bytes, and nanoseconds from the first to the last of them."""
    buffer = bytearray(_CHUNK)
    received = connection.recv_into(buffer)
    start = last = time.monotonic_ns()
    longest = int((limits.transfer_seconds + _CONNECT_SECONDS) * 1e9)
    while last - start < longest and received <= limits.transfer_bytes:
        part = connection.recv_into(buffer)
        if not part:
            break
        received += part
        last = time.monotonic_ns()
    return received, last - start


# The side that asks.


@contextlib.contextmanager
def _connected(
    token: bytes, source: str, address: str, port: int, kind: bytes
) -> Iterator[tuple[socket.socket, bytes]]:
    """Connect, and prove to each other that both know the token; gives the connection and the nonce."""
    connection = socket.create_connection((address, port), _CONNECT_SECONDS, (source, 0))
    with connection:
        yield connection, _shake_hands(connection, token, kind)


def _shake_hands(connection: socket.socket, token: bytes, kind: bytes) -> bytes:
    greeting = _receive(connection, len(_MAGIC) + _NONCE)
    nonce = greeting[len(_MAGIC) :]
    if greeting[: len(_MAGIC)] != _MAGIC:
        raise ConnectionError("something else answers there")
    connection.sendall(kind + mac(token, b"c", nonce, kind))
    if not hmac.compare_digest(_receive(connection, _MAC), mac(token, b"s", nonce, kind)):
        raise ConnectionError("what answers there does not know the token of this run")
    return nonce


def probe(
    targets: Sequence[Target],
    token: bytes,
    port: int,
    samples: int,
    seconds: float,
    transfer: Limits | None = None,
) -> list[Result]:
    """Measure all targets, one after the other, for *seconds* in all; with *transfer* the bandwidth and nothing else."""
    deadline = time.monotonic() + seconds
    results = [Result(**asdict(target), port=port) for target in targets]
    with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
        list(pool.map(lambda result: _greet(result, token), results))
    for result in results:
        if result.problem:
            continue
        if time.monotonic() > deadline:
            result.problem = f"not measured: {seconds:g} s for {len(results)} pairs were over"
            continue
        try:
            if transfer:
                _measure_bandwidth(result, token, transfer)
            else:
                _measure_packets(result, token, samples)
        except OSError as error:
            result.problem = _reason(error)
    return results


def _greet(result: Result, token: bytes) -> None:
    try:
        with _connected(token, result.source, result.address, result.port, _HELLO):
            pass
    except OSError as error:
        result.blocked, result.problem = "tcp", _reason(error)


def _measure_packets(result: Result, token: bytes, samples: int) -> None:
    with _datagram_socket(result.address) as udp:
        udp.bind((result.source, 0))
        udp.connect((result.address, result.port))
        times = []
        for sequence in range(samples):
            taken = _echo(udp, token, sequence, _PING_BYTES)
            result.sent += 1
            if taken is not None:
                times.append(taken)
            elif result.sent >= _SILENT and not times:
                result.lost = result.sent
                result.blocked, result.problem = "udp", f"none of {_SILENT} datagrams was answered"
                return
            time.sleep(_PAUSE_SECONDS)
        result.lost = result.sent - len(times)
        result.rtt_ms = rtt_of(times)
        result.path_mtu = path_mtu(
            lambda size: _fits(udp, token, size),
            ipaddress.ip_address(result.address).version,
            result.mtu,
        )


def rtt_of(times: Sequence[float]) -> dict[str, float]:
    """Give min, median, 99th percentile (nearest rank) and max of times in seconds, as milliseconds."""
    if not times:
        return {}
    ordered = sorted(times)
    rank = {"min": 0.0, "median": 0.5, "p99": 0.99, "max": 1.0}
    return {
        name: round(1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)
        for name, share in rank.items()
    }


def _echo(udp: socket.socket, token: bytes, sequence: int, size: int) -> float | None:
    """Give the seconds until the answer came, or None; raises OSError with EMSGSIZE where the datagram cannot be sent whole."""
    start = time.monotonic()
    try:
        udp.send(packet(token, _ECHO, sequence, size))
        while (left := start + _ECHO_SECONDS - time.monotonic()) > 0:
            udp.settimeout(left)
            read = read_packet(token, udp.recv(_LARGEST + 1))
            if read and read[1] == sequence:
                if read[0] == _TOO_BIG:
                    raise OSError(errno.EMSGSIZE, "the answer cannot be sent whole")
                return time.monotonic() - start
    except TimeoutError:
        return None
    except OSError as error:
        if error.errno == errno.EMSGSIZE:
            raise
    return None


def _fits(udp: socket.socket, token: bytes, size: int) -> bool:
    """Whether a datagram of this size goes there and back; a lost one is tried again."""
    with contextlib.suppress(OSError):
        for attempt in range(2):
            if _echo(udp, token, (size << 8) + attempt + (1 << 32), size) is not None:
                return True
    return False


def path_mtu(fits: Callable[[int], bool], version: int, mtu: int) -> int | None:
    """Find the largest packet, in bytes with its headers, that *fits* (which is asked for bytes of a datagram), up to *mtu*.

    The largest is tried first, for that is what should fit; then the interval is halved, as in RFC 4821.
    """
    overhead = _OVERHEAD[version]
    if fits(min(mtu - overhead, _LARGEST)):
        return mtu
    low, high = _FLOOR[version], min(mtu, _LARGEST + overhead)
    if low >= high or not fits(low - overhead):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle - overhead):
            low = middle
        else:
            high = middle
    return low


def _measure_bandwidth(result: Result, token: bytes, limits: Limits) -> None:
    there = (token, result.source, result.address, result.port)
    with _connected(*there, _UPLOAD) as (connection, nonce):
        connection.settimeout(limits.transfer_seconds + _CONNECT_SECONDS)
        _send_for(connection, limits)
        count = _receive(connection, _COUNT.size)
        if not hmac.compare_digest(_receive(connection, _MAC), mac(token, b"s", nonce, count)):
            raise ConnectionError("the count of the bytes is not from the host that was asked")
        result.bandwidth_mbps["to"] = rate_mbps(*_COUNT.unpack(count))
    with _connected(*there, _DOWNLOAD) as (connection, _nonce):
        connection.settimeout(limits.transfer_seconds + _CONNECT_SECONDS)
        result.bandwidth_mbps["from"] = rate_mbps(*_receive_for(connection, limits))


def rate_mbps(count: int, nanoseconds: int) -> float:
    """Rate in 10^6 bits per second; a transfer too short to be timed has none."""
    return round(8000 * count / nanoseconds, 1) if nanoseconds > 0 else 0.0


def stop(token: bytes) -> None:
    """Tell the answering side of this host that it is enough, and wait until it is gone. One that is gone already is no failure."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as control:
        control.settimeout(_CONNECT_SECONDS)
        control.connect(_control_name(token))
        _shake_hands(control, token, _QUIT)
    with contextlib.suppress(OSError):
        for _attempt in range(100):
            with socket.socket(socket.AF_UNIX) as control:
                control.settimeout(_CONNECT_SECONDS)
                control.connect(_control_name(token))
            time.sleep(0.01)


def _reason(error: OSError) -> str:
    """Why a connection or a socket failed, in words."""
    known: Mapping[int | None, str] = {
        errno.ECONNREFUSED: "the connection was refused",
        errno.EADDRINUSE: "another process has this port",
        errno.EADDRNOTAVAIL: "this host does not have the address",
    }
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"no answer within {_CONNECT_SECONDS:g} s"
    return known.get(error.errno) or error.strerror or str(error) or type(error).__name__
