# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What both ends of a network probe send: packets and handshakes with a keyed MAC, and bounded transfers.

A datagram without the right MAC has no answer, a connection without it is closed, and neither is read unless it
comes from an expected address. The token itself is never sent. An answer is never longer than its question, so
that nobody can be flooded by it; transfers are limited in time and bytes.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import ipaddress
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass

# Linux's numbers, which Python has no names for (linux/in.h, linux/in6.h). PROBE sets DF and ignores the path MTU that the kernel
# remembers, so that each measurement is a new one.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE, _IPV6_DONTFRAG = 10, 23, 3, 62
MAGIC = b"DSP1"
# magic, kind, bytes of the datagram, sequence number
_HEADER = struct.Struct("!4scxHQ")
_SHORT_MAC = 16
MAC = 32
NONCE = 16
COUNT = struct.Struct("!QQ")
SMALLEST = _HEADER.size + _SHORT_MAC
LARGEST = 65507  # of a UDP datagram over IPv4
ECHO, ANSWER, TOO_BIG = b"E", b"A", b"B"
HELLO, UPLOAD, DOWNLOAD, QUIT = b"h", b"u", b"d", b"q"
_CHUNK = 1 << 20
CONNECT_SECONDS = 2.0
CONNECTIONS = 16


@dataclass(frozen=True)
class Limits:
    """How long the answering side lives, in seconds, and how much one transfer may take, in seconds and bytes."""

    seconds: float
    transfer_seconds: float
    transfer_bytes: int


def mac(token: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104) of all parts together; each has a length that both sides know."""
    return hmac.new(token, b"".join(parts), hashlib.sha256).digest()


def packet(token: bytes, kind: bytes, sequence: int, size: int) -> bytes:
    """Make a datagram of exactly *size* bytes, at least SMALLEST."""
    header = _HEADER.pack(MAGIC, kind, size, sequence)
    return (header + mac(token, header)[:_SHORT_MAC]).ljust(size, b"\0")


def read_packet(token: bytes, data: bytes) -> tuple[bytes, int] | None:
    """Give kind and sequence number of a datagram, or None where it was not made with the token or is not whole."""
    if len(data) < SMALLEST:
        return None
    header, code = data[: _HEADER.size], data[_HEADER.size : SMALLEST]
    magic, kind, size, sequence = _HEADER.unpack(header)
    if magic != MAGIC or size != len(data):
        return None
    if not hmac.compare_digest(code, mac(token, header)[:_SHORT_MAC]):
        return None
    return kind, sequence


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET


def datagram_socket(address: str) -> socket.socket:
    """Make a UDP socket whose datagrams are never fragmented."""
    kind = family(address)
    udp = socket.socket(kind, socket.SOCK_DGRAM)
    if kind == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
    else:
        udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    return udp


def receive(connection: socket.socket, size: int) -> bytes:
    """Receive exactly *size* bytes; raises ConnectionError when the other side ends before."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the connection was closed")
        data += part
    return data


def send_for(connection: socket.socket, limits: Limits) -> None:
    """Send as fast as possible, within the limits, and say that it is all."""
    block = memoryview(bytes(_CHUNK))
    start, sent = time.monotonic(), 0
    while sent < limits.transfer_bytes and time.monotonic() - start < limits.transfer_seconds:
        sent += connection.send(block[: limits.transfer_bytes - sent])
    connection.shutdown(socket.SHUT_WR)


def receive_for(connection: socket.socket, limits: Limits) -> tuple[int, int]:
    """Receive to the end, or for as long as a transfer may take; gives bytes, and nanoseconds from the first to the last of them."""
    buffer = bytearray(_CHUNK)
    received = connection.recv_into(buffer)
    start = last = time.monotonic_ns()
    longest = int((limits.transfer_seconds + CONNECT_SECONDS) * 1e9)
    while last - start < longest and received <= limits.transfer_bytes:
        part = connection.recv_into(buffer)
        if not part:
            break
        received += part
        last = time.monotonic_ns()
    return received, last - start


def shake_hands(connection: socket.socket, token: bytes, kind: bytes) -> bytes:
    greeting = receive(connection, len(MAGIC) + NONCE)
    nonce = greeting[len(MAGIC) :]
    if greeting[: len(MAGIC)] != MAGIC:
        raise ConnectionError("something else answers there")
    connection.sendall(kind + mac(token, b"c", nonce, kind))
    if not hmac.compare_digest(receive(connection, MAC), mac(token, b"s", nonce, kind)):
        raise ConnectionError("what answers there does not know the token of this run")
    return nonce


def reason(error: OSError) -> str:
    """Why a connection or a socket failed, in words."""
    known: Mapping[int | None, str] = {
        errno.ECONNREFUSED: "the connection was refused",
        errno.EADDRINUSE: "another process has this port",
        errno.EADDRNOTAVAIL: "this host does not have the address",
    }
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"no answer within {CONNECT_SECONDS:g} s"
    return known.get(error.errno) or error.strerror or str(error) or type(error).__name__
