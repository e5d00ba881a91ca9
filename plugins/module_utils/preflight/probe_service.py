# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The answering end of a network probe: listen, answer the expected peers, end when told or when the time is over."""

from __future__ import annotations

import contextlib
import errno
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .probe_wire import (
    ANSWER,
    CONNECT_SECONDS,
    CONNECTIONS,
    COUNT,
    DOWNLOAD,
    ECHO,
    HELLO,
    LARGEST,
    MAC,
    MAGIC,
    NONCE,
    QUIT,
    SMALLEST,
    TOO_BIG,
    UPLOAD,
    Limits,
    datagram_socket,
    family,
    mac,
    packet,
    read_packet,
    reason,
    receive,
    receive_for,
    send_for,
    shake_hands,
)

_CREDENTIALS = struct.Struct("3i")  # pid, uid and gid (unix(7))


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


def control_name(token: bytes) -> bytes:
    """Name of a socket in Linux's abstract namespace (unix(7)), which is no file and goes with its process."""
    return b"\0deepseek-probe-" + mac(token, b"control").hex().encode()


def open_sockets(addresses: Sequence[str], port: int, token: bytes) -> Sockets:
    """Listen on a port of each address, by TCP and UDP."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.bind(control_name(token))
    control.listen(1)
    control.setblocking(False)
    sockets = Sockets(control, os.geteuid())
    for address in dict.fromkeys(addresses):
        opened: list[socket.socket] = []
        try:
            # A kernel without IPv6 has no such sockets at all.
            opened.append(tcp := socket.socket(family(address), socket.SOCK_STREAM))
            opened.append(udp := datagram_socket(address))
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((address, port))
            tcp.listen(CONNECTIONS)
            udp.bind((address, port))
        except OSError as error:
            sockets.errors[address] = reason(error)
            for one in opened:
                one.close()
            continue
        tcp.setblocking(False)
        udp.setblocking(False)
        sockets.tcp.append(tcp)
        sockets.udp.append(udp)
    return sockets


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
        self.slots = threading.BoundedSemaphore(CONNECTIONS + 2 * len(peers))
        # a transfer in each direction for each peer, and once more for a second run
        self.transfers = threading.BoundedSemaphore(max(1, 4 * len(peers)))

    def echo(self, udp: socket.socket) -> None:
        try:
            data, origin = udp.recvfrom(LARGEST + 1)
        except OSError:
            # the ICMP answer to an earlier datagram of ours
            return
        if ipaddress.ip_address(origin[0]) not in self.peers:
            return
        read = read_packet(self.token, data)
        if read is None or read[0] != ECHO:
            return
        try:
            udp.sendto(packet(self.token, ANSWER, read[1], len(data)), origin)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                with contextlib.suppress(OSError):
                    udp.sendto(packet(self.token, TOO_BIG, read[1], SMALLEST), origin)

    def accept(self, tcp: socket.socket) -> None:
        try:
            connection, origin = tcp.accept()
        except OSError:
            return
        known = ipaddress.ip_address(origin[0]) in self.peers
        if not known or not self.slots.acquire(blocking=False):
            connection.close()
            return
        kinds = (HELLO, UPLOAD, DOWNLOAD)
        threading.Thread(target=self._talk, args=(connection, kinds), daemon=True).start()

    def accept_control(self, control: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _origin = control.accept()
            who = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(who)[1] == self.owner and self.slots.acquire(blocking=False):
                self._talk(connection, (QUIT,))
            else:
                connection.close()

    def _talk(self, connection: socket.socket, kinds: Sequence[bytes]) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(CONNECT_SECONDS)
                self._answer(connection, kinds)
        finally:
            self.slots.release()

    def _answer(self, connection: socket.socket, kinds: Sequence[bytes]) -> None:
        nonce = secrets.token_bytes(NONCE)
        connection.sendall(MAGIC + nonce)
        request = receive(connection, 1 + MAC)
        kind = request[:1]
        known = hmac.compare_digest(request[1:], mac(self.token, b"c", nonce, kind))
        if not known or kind not in kinds:
            return
        connection.sendall(mac(self.token, b"s", nonce, kind))
        if kind == QUIT:
            self.over.set()
        elif kind in (UPLOAD, DOWNLOAD) and self.transfers.acquire(blocking=False):
            if kind == DOWNLOAD:
                send_for(connection, self.limits)
                return
            count = COUNT.pack(*receive_for(connection, self.limits))
            connection.sendall(count + mac(self.token, b"s", nonce, count))


def stop(token: bytes) -> None:
    """Tell the answering side of this host that it is enough, and wait until it is gone. One that is gone already is no failure."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as control:
        control.settimeout(CONNECT_SECONDS)
        control.connect(control_name(token))
        shake_hands(control, token, QUIT)
    with contextlib.suppress(OSError):
        for _attempt in range(100):
            with socket.socket(socket.AF_UNIX) as control:
                control.settimeout(CONNECT_SECONDS)
                control.connect(control_name(token))
            time.sleep(0.01)
