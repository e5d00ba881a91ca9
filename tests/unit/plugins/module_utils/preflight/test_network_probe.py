# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Both sides of the probe with real sockets, on loopback."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import PATIENCE, until

from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.network_probe import (
    Target,
    _connected,
    path_mtu,
    probe,
    rate_mbps,
    rtt_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.probe_service import (
    open_sockets,
    serve,
    stop,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.probe_wire import (
    Limits,
    packet,
    read_packet,
    send_for,
)

ROOT = Path(__file__).resolve().parents[5]
TOKEN = b"a token of this test"
LIMITS = Limits(seconds=PATIENCE, transfer_seconds=0.2, transfer_bytes=50_000_000)


def has_ipv6() -> bool:
    """Whether this machine has the loopback address of IPv6, which many servers switch off."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


BOTH = ("127.0.0.1", "::1" if has_ipv6() else "127.0.0.2")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def answering(
    peers: Sequence[str] = BOTH, limits: Limits = LIMITS, addresses: Sequence[str] = BOTH
) -> Iterator[tuple[int, threading.Thread]]:
    port = free_port()
    sockets = open_sockets(addresses, port, TOKEN)
    assert sockets.errors == {}
    server = threading.Thread(target=serve, args=(sockets, TOKEN, peers, limits), daemon=True)
    server.start()
    try:
        yield port, server
    finally:
        stop(TOKEN)
        sockets.close()


def target(address: str) -> Target:
    return Target("other", "storage", address, address, 65536)


@pytest.mark.parametrize("address", BOTH)
def test_delay_loss_and_path_mtu(address: str) -> None:
    with answering() as (port, _unused):
        (result,) = probe([target(address)], TOKEN, port, 20, 10)
    assert (result.problem, result.sent, result.lost) == ("", 20, 0)
    assert (result.path_mtu, result.mtu) == (65536, 65536)
    times = result.rtt_ms
    assert 0 < times["min"] <= times["median"] <= times["p99"] <= times["max"]


@pytest.mark.parametrize("address", BOTH)
def test_bandwidth_in_both_directions_within_limits(address: str) -> None:
    with answering() as (port, _unused):
        (result,) = probe([target(address)], TOKEN, port, 20, 10, LIMITS)
    assert result.problem == ""
    assert result.bandwidth_mbps.keys() == {"to", "from"}
    assert min(result.bandwidth_mbps.values()) > 0


def transferred(limits: Limits) -> int:
    """Bytes that are sent until it ends by itself."""
    there, here = socket.socketpair()
    here.settimeout(PATIENCE)
    sender = threading.Thread(target=send_for, args=(there, limits))
    sender.start()
    received = 0
    while part := here.recv(1 << 20):
        received += len(part)
    sender.join()
    return received


def test_bytes_and_time_of_a_transfer_are_limited() -> None:
    assert transferred(Limits(PATIENCE, PATIENCE, 3_000_000)) == 3_000_000
    assert transferred(Limits(PATIENCE, 0.1, 10**15)) > 0


def test_a_client_that_does_not_know_the_token_gets_nothing() -> None:
    with answering() as (port, _unused):
        (result,) = probe([target("127.0.0.1")], b"another token here", port, 20, 10)
        assert (result.blocked, result.problem) == ("tcp", "the connection was closed")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(0.2)
            for data in (b"", b"x" * 64, packet(b"another token here", b"E", 1, 64)):
                udp.sendto(data, ("127.0.0.1", port))
                with pytest.raises(TimeoutError):
                    udp.recv(100)
        (result,) = probe([target("127.0.0.1")], TOKEN, port, 20, 10)
        assert result.problem == ""


def test_strangers_get_nothing_even_with_the_token() -> None:
    with answering(peers=BOTH[1:]) as (port, _unused):
        (result,) = probe([target("127.0.0.1")], TOKEN, port, 20, 10)
        assert result.blocked == "tcp"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(0.2)
            udp.sendto(packet(TOKEN, b"E", 1, 64), ("127.0.0.1", port))
            with pytest.raises(TimeoutError):
                udp.recv(100)


def test_an_answer_is_never_longer_than_its_question() -> None:
    with answering() as (port, _unused), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(PATIENCE)
        for size in (32, 64, 1472, 9000):
            udp.sendto(packet(TOKEN, b"E", size, size), ("127.0.0.1", port))
            assert len(udp.recv(65535)) == size


def test_something_else_on_the_port_is_recognised() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def greet() -> None:
            connection, _unused = other.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2 and so on and on\r\n")
                time.sleep(0.2)

        threading.Thread(target=greet, daemon=True).start()
        (result,) = probe([target("127.0.0.1")], TOKEN, port, 20, 10)
    assert (result.blocked, result.problem) == ("tcp", "something else answers there")


def test_a_server_that_does_not_know_the_token_is_recognised() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def pretend() -> None:
            connection, _unused = other.accept()
            with connection:
                connection.sendall(b"DSP1" + bytes(16))
                connection.recv(100)
                connection.sendall(bytes(32))
                time.sleep(0.2)

        threading.Thread(target=pretend, daemon=True).start()
        (result,) = probe([target("127.0.0.1")], TOKEN, port, 20, 10)
    assert result.problem == "what answers there does not know the token of this run"


def test_nobody_there() -> None:
    (result,) = probe([target("127.0.0.1")], TOKEN, free_port(), 20, 10)
    assert (result.blocked, result.problem) == ("tcp", "the connection was refused")


def test_udp_alone_is_blocked() -> None:
    port = free_port()
    sockets = open_sockets(["127.0.0.1"], port, TOKEN)
    for one in sockets.udp:
        one.close()
    sockets.udp.clear()
    server = threading.Thread(target=serve, args=(sockets, TOKEN, BOTH, LIMITS), daemon=True)
    server.start()
    (result,) = probe([target("127.0.0.1")], TOKEN, port, 20, 10)
    stop(TOKEN)
    sockets.close()
    assert (result.blocked, result.lost, result.rtt_ms) == ("udp", 5, {})


def test_time_for_all_targets_is_limited() -> None:
    with answering() as (port, _unused):
        results = probe([target("127.0.0.1")] * 3, TOKEN, port, 20, -1)
    assert [result.problem for result in results] == [
        "not measured: -1 s for 3 pairs were over"
    ] * 3


def test_addresses_that_cannot_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        sockets = open_sockets(["127.0.0.1", "192.0.2.1", BOTH[1]], port, TOKEN)
    assert sockets.errors == {
        "127.0.0.1": "another process has this port",
        "192.0.2.1": "this host does not have the address",
    }
    assert len(sockets.tcp) == len(sockets.udp) == 1
    sockets.close()


def test_a_kernel_without_ipv6_costs_its_address_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return real(family, kind)

    real = socket.socket
    monkeypatch.setattr(socket, "socket", without_ipv6)
    sockets = open_sockets(["::1", "127.0.0.1"], 0, TOKEN)
    assert sockets.errors.keys() == {"::1"}
    assert "not supported" in sockets.errors["::1"]
    assert len(sockets.tcp) == len(sockets.udp) == 1
    sockets.close()


def test_it_ends_when_it_is_told_to() -> None:
    with answering() as (_unused, server):
        stop(TOKEN)
        server.join(PATIENCE)
        assert not server.is_alive()


def test_nobody_else_can_end_it() -> None:
    with answering() as (port, server):
        stop(b"another token here")
        there = _connected(TOKEN, "127.0.0.1", "127.0.0.1", port, b"q")
        with pytest.raises(ConnectionError), there:
            pass
        assert server.is_alive()


def test_it_ends_by_itself() -> None:
    with answering(limits=Limits(0.2, 1, 1), peers=()) as (_unused, server):
        server.join(PATIENCE)
        assert not server.is_alive()


def test_stopping_nothing_is_no_failure() -> None:
    stop(TOKEN)


@given(data=st.binary(max_size=200))
def test_no_datagram_is_taken_for_one_of_ours(data: bytes) -> None:
    assert read_packet(TOKEN, data) is None


@given(
    kind=st.sampled_from([b"E", b"A"]),
    sequence=st.integers(0, 2**64 - 1),
    size=st.integers(32, 2000),
    place=st.integers(0, 31),
    flip=st.integers(1, 255),
)
def test_a_changed_datagram_is_not_ours(
    kind: bytes, sequence: int, size: int, place: int, flip: int
) -> None:
    data = bytearray(packet(TOKEN, kind, sequence, size))
    assert len(data) == size
    assert read_packet(TOKEN, bytes(data)) == (kind, sequence)
    assert read_packet(TOKEN, bytes(data[:-1])) is None
    data[place] ^= flip
    # the byte of padding in the header is covered, too
    assert read_packet(TOKEN, bytes(data)) is None


@given(limit=st.integers(0, 70000), mtu=st.integers(1280, 65535), version=st.sampled_from([4, 6]))
def test_path_mtu_finds_the_limit(limit: int, mtu: int, version: int) -> None:
    overhead, floor = {4: (28, 576), 6: (48, 1280)}[version]
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size + overhead <= limit

    found = path_mtu(fits, version, mtu)
    assert found == (None if limit < floor else min(limit, mtu)) or mtu <= floor
    assert len(asked) <= 19
    assert max(asked) + overhead <= mtu


@given(times=st.lists(st.floats(0, 10), min_size=1))
def test_rtt_is_in_order(times: list[float]) -> None:
    rtt = rtt_of(times)
    assert rtt["min"] <= rtt["median"] <= rtt["p99"] <= rtt["max"]
    assert rtt["max"] == round(1000 * max(times), 3)


def test_rtt_of_a_hundred() -> None:
    rtt = rtt_of([number / 1000 for number in range(1, 101)])
    assert rtt == {"min": 1.0, "median": 50.0, "p99": 99.0, "max": 100.0}
    assert rtt_of([]) == {}


def test_rate() -> None:
    assert rate_mbps(125_000_000, 1_000_000_000) == 1000.0
    assert rate_mbps(1, 0) == 0.0


# As a process of its own

DETACH = """
import sys, time
sys.path.insert(0, sys.argv[1])
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.probe_service import *
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.probe_wire import *
limits = Limits(float(sys.argv[3]), 1, 10**6)
sockets = open_sockets(["127.0.0.1"], int(sys.argv[2]), b"a token of this test")
work = (lambda: time.sleep(60)) if sys.argv[4] == "hang" else (
    lambda: serve(sockets, b"a token of this test", ["127.0.0.1"], limits))
detach(work, sockets.all(), limits.seconds)
"""


def detached(port: int, seconds: float, work: str = "serve") -> None:
    """As a module does: the caller must not have to wait for the process to close its output."""
    subprocess.run(
        [
            sys.executable,
            "-c",
            DETACH,
            str(ROOT / ".cache/collections"),
            str(port),
            str(seconds),
            work,
        ],
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )


def owners(port: int) -> list[int]:
    """User ids of the listening sockets' owners, from /proc/net/tcp: those who opened them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(line[7]) for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "0A"]


def test_the_process_outlives_its_caller_and_ends_when_told_to() -> None:
    port = free_port()
    detached(port, PATIENCE)
    (result,) = probe([target("127.0.0.1")], TOKEN, port, 5, 10)
    assert result.problem == ""
    stop(TOKEN)
    assert owners(port) == []


@pytest.mark.parametrize("work", ["serve", "hang"])
def test_the_process_ends_at_its_deadline_whatever_it_does(work: str) -> None:
    port = free_port()
    # long enough to be seen by a busy machine
    detached(port, 5.0, work)
    assert owners(port) != []
    until(lambda: not owners(port))
