# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a network does to real packets between two hosts: delay, loss, the largest packet, and the rate of a TCP stream.

One host answers (module probe_service), the other asks (:func:`probe`). Both know a token. UDP carries small echoes
(delay, loss) and large ones that may not be fragmented (path MTU), TCP a transfer in each direction.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import hmac
import ipaddress
import math
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from .probe_wire import (
    CONNECT_SECONDS,
    CONNECTIONS,
    COUNT,
    DOWNLOAD,
    ECHO,
    HELLO,
    LARGEST,
    MAC,
    TOO_BIG,
    UPLOAD,
    Limits,
    datagram_socket,
    mac,
    packet,
    read_packet,
    reason,
    receive,
    receive_for,
    send_for,
    shake_hands,
)

_PING_BYTES = 64
_ECHO_SECONDS = 0.3
# After so many echoes without any answer there will be none.
_SILENT = 5
_PAUSE_SECONDS = 0.001
# Bytes of the headers of IP and UDP, and the smallest MTU that the protocol allows (RFC 791, RFC 8200).
_OVERHEAD = {4: 28, 6: 48}
_FLOOR = {4: 576, 6: 1280}


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


@contextlib.contextmanager
def _connected(
    token: bytes, source: str, address: str, port: int, kind: bytes
) -> Iterator[tuple[socket.socket, bytes]]:
    """Connect, and prove to each other that both know the token; gives the connection and the nonce."""
    connection = socket.create_connection((address, port), CONNECT_SECONDS, (source, 0))
    with connection:
        yield connection, shake_hands(connection, token, kind)


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
    with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
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
            result.problem = reason(error)
    return results


def _greet(result: Result, token: bytes) -> None:
    try:
        with _connected(token, result.source, result.address, result.port, HELLO):
            pass
    except OSError as error:
        result.blocked, result.problem = "tcp", reason(error)


def _measure_packets(result: Result, token: bytes, samples: int) -> None:
    with datagram_socket(result.address) as udp:
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
        udp.send(packet(token, ECHO, sequence, size))
        while (left := start + _ECHO_SECONDS - time.monotonic()) > 0:
            udp.settimeout(left)
            read = read_packet(token, udp.recv(LARGEST + 1))
            if read and read[1] == sequence:
                if read[0] == TOO_BIG:
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
    if fits(min(mtu - overhead, LARGEST)):
        return mtu
    low, high = _FLOOR[version], min(mtu, LARGEST + overhead)
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
    with _connected(*there, UPLOAD) as (connection, nonce):
        connection.settimeout(limits.transfer_seconds + CONNECT_SECONDS)
        send_for(connection, limits)
        count = receive(connection, COUNT.size)
        if not hmac.compare_digest(receive(connection, MAC), mac(token, b"s", nonce, count)):
            raise ConnectionError("the count of the bytes is not from the host that was asked")
        result.bandwidth_mbps["to"] = rate_mbps(*COUNT.unpack(count))
    with _connected(*there, DOWNLOAD) as (connection, _nonce):
        connection.settimeout(limits.transfer_seconds + CONNECT_SECONDS)
        result.bandwidth_mbps["from"] = rate_mbps(*receive_for(connection, limits))


def rate_mbps(count: int, nanoseconds: int) -> float:
    """Rate in 10^6 bits per second; a transfer too short to be timed has none."""
    return round(8000 * count / nanoseconds, 1) if nanoseconds > 0 else 0.0
