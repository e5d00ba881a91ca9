# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Try connections with real packets, many at once, and say what became of each.

Nothing has to listen on the other side: a host that lets a packet in refuses the connection itself,
with a reset (TCP) or an ICMP error (UDP), and that answer is the proof that the packet got through.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import selectors
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REACHED = "reached"  # an answer came back, a refusal among them
SILENT = "silent"  # none did
DENIED = "denied here"  # the host that tried did not let the packet out
NO_ROUTE = "no route"

BATCH = 2000
_OTHER_FILES = 64  # that this process has open beside them
_CLONE_NEWNET = 0x40000000
_ERRORS = {
    errno.ECONNREFUSED: REACHED,
    errno.ECONNRESET: REACHED,
    errno.EPERM: DENIED,
    errno.EACCES: DENIED,
    errno.ENETUNREACH: NO_ROUTE,
    errno.EHOSTUNREACH: NO_ROUTE,
    errno.EADDRNOTAVAIL: NO_ROUTE,
    errno.EINVAL: NO_ROUTE,
    errno.EAFNOSUPPORT: NO_ROUTE,
    errno.ETIMEDOUT: SILENT,
}


@dataclass
class _Try:
    """One connection that is being tried."""

    number: int
    probe: Mapping[str, Any]
    outcome: str = ""
    socket: socket.socket | None = field(default=None, repr=False)


def probe_all(
    probes: Sequence[Mapping[str, Any]], seconds: float = 1.0, attempts: int = 2
) -> list[str]:
    """Give the outcome of each probe, in their order.

    A probe is a mapping with ``target``, ``protocol`` (tcp, udp or icmp), ``port`` and, to bind to, ``source``.
    One that is silent is tried again: hosts answer only so many refusals per second.
    """
    outcomes = [""] * len(probes)
    batch = _batch()
    for _attempt in range(attempts):
        left = [number for number, outcome in enumerate(outcomes) if outcome in ("", SILENT)]
        for start in range(0, len(left), batch):
            tries = [_Try(number, probes[number]) for number in left[start : start + batch]]
            _run(tries, seconds)
            for each in tries:
                outcomes[each.number] = each.outcome
    return outcomes


def _batch() -> int:
    """How many connections to try at once: the limit of open files is raised as far as this process may."""
    wanted = BATCH + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return BATCH if soft == resource.RLIM_INFINITY else max(1, min(BATCH, soft - _OTHER_FILES))


def _run(tries: Sequence[_Try], seconds: float) -> None:
    with selectors.DefaultSelector() as selector:
        try:
            for each in tries:
                _begin(each, selector)
            deadline = time.monotonic() + seconds
            while any(not each.outcome for each in tries) and time.monotonic() < deadline:
                for key, _events in selector.select(max(0.0, deadline - time.monotonic())):
                    _answer(key.data)
                    if key.data.outcome:
                        selector.unregister(key.fileobj)
        finally:
            for each in tries:
                each.outcome = each.outcome or SILENT
                if each.socket is not None:
                    each.socket.close()


def _begin(each: _Try, selector: selectors.BaseSelector) -> None:
    family = socket.AF_INET6 if ":" in each.probe["target"] else socket.AF_INET
    protocol, port = each.probe["protocol"], int(each.probe.get("port") or 0)
    try:
        each.socket = _socket(family, protocol)
        each.socket.setblocking(False)
        if each.probe.get("source"):
            each.socket.bind((each.probe["source"], 0))
        code = each.socket.connect_ex((each.probe["target"], port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        if protocol == "udp":
            each.socket.send(b"zone probe\n")
        elif protocol == "icmp":
            each.socket.send(_echo(family, each.number))
    except OSError as error:
        each.outcome = _ERRORS.get(error.errno or 0, f"failed: {error.strerror}")
        return
    events = selectors.EVENT_WRITE if protocol == "tcp" else selectors.EVENT_READ
    selector.register(each.socket, events, each)


def _socket(family: int, protocol: str) -> socket.socket:
    if protocol == "tcp":
        return socket.socket(family, socket.SOCK_STREAM)
    if protocol == "udp":
        return socket.socket(family, socket.SOCK_DGRAM)
    number = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    return socket.socket(family, socket.SOCK_RAW, number)


def _answer(each: _Try) -> None:
    if each.socket is None:
        return
    if each.probe["protocol"] == "tcp":
        code = each.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        each.outcome = _ERRORS.get(code, f"failed: {os.strerror(code)}") if code else REACHED
        return
    try:
        data = each.socket.recv(2048)
    except BlockingIOError:
        return
    except OSError as error:
        each.outcome = _ERRORS.get(error.errno or 0, f"failed: {error.strerror}")
        return
    if each.probe["protocol"] == "udp" or _is_reply(each, data):
        each.outcome = REACHED


def _echo(family: int, number: int) -> bytes:
    """An echo request (RFC 792, RFC 4443); the kernel fills in the checksum for IPv6."""
    kind = 128 if family == socket.AF_INET6 else 8
    body = struct.pack("!HH", os.getpid() & 0xFFFF, number & 0xFFFF) + b"zone probe\n\0"
    head = struct.pack("!BBH", kind, 0, 0)
    if family == socket.AF_INET6:
        return head + body
    words = struct.unpack(f"!{len(head + body) // 2}H", head + body)
    total = sum(words)
    total = (total >> 16) + (total & 0xFFFF)
    total += total >> 16
    return struct.pack("!BBH", kind, 0, ~total & 0xFFFF) + body


def _is_reply(each: _Try, data: bytes) -> bool:
    """Whether it is the reply to this request; a raw socket sees those of others, too."""
    if ":" in each.probe["target"]:
        kind = 129
    else:
        kind, data = 0, data[(data[0] & 0x0F) * 4 :]
    identity = struct.pack("!HH", os.getpid() & 0xFFFF, each.number & 0xFFFF)
    return len(data) >= 8 and data[0] == kind and data[4:8] == identity


# Other network namespaces of the host: containers


@dataclass(frozen=True)
class Namespace:
    """A network namespace that is not the host's own, with one process in it."""

    inode: int
    pid: int
    command: str


def namespaces(proc: str = "/proc") -> list[Namespace]:
    """Give the network namespaces of all processes but the one that asks."""
    found: dict[int, Namespace] = {}
    own = os.stat(f"{proc}/self/ns/net").st_ino
    for name in os.listdir(proc):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                inode = os.stat(f"{proc}/{name}/ns/net").st_ino
                with open(f"{proc}/{name}/comm", encoding="utf-8", errors="replace") as handle:
                    if inode != own:
                        found.setdefault(inode, Namespace(inode, int(name), handle.read().strip()))
    return sorted(found.values(), key=lambda item: item.inode)


def inside(namespace: Namespace, ask: Callable[[], Any]) -> Any:
    """Call something in a child process that is in the namespace, and give its answer (which must be JSON)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.close(reading)
            _enter(namespace.pid)
            with os.fdopen(writing, "w", encoding="utf-8") as handle:
                json.dump(ask(), handle)
            status = 0
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as handle:
        answer = handle.read()
    _pid, result = os.waitpid(child, 0)
    if result:
        raise OSError(
            f"network namespace of process {namespace.pid} ({namespace.command}) could not be used"
        )
    return json.loads(answer)


def _enter(pid: int) -> None:
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Python has os.setns only since 3.12.
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)
