# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker does to a request: it dies, hangs, stops, fails, or is only slow."""

from __future__ import annotations

import contextlib
import re
import signal
import stat
import subprocess
import threading

import pytest
from gateway_process import SERVICE, Client, Gateway
from waiting import PATIENCE, until

STREAM = b'{"messages":[{"content":"\\"stream\\": false"}],"stream": true}'


def taken(gateway: Gateway) -> int:
    return sum(len(worker.taken) for worker in gateway.workers)


def test_a_request_under_which_a_worker_ends_is_sent_to_no_other_whatever_connection_it_came_by(
    gateway: Gateway,
) -> None:
    """Not the first of its connection either, for which HAProxy alone gives no answer."""
    with contextlib.closing(Client(gateway)) as client:
        assert [client.ask().status for _again in range(2)] == [200, 200]
        reply = client.ask("/v1/die")
    assert (reply.status, reply.error["code"]) == (502, "worker_broke_off")
    # OpenAI's clients send again what failed with 5xx, but for this
    assert reply.headers["x-should-retry"] == "false"
    assert taken(gateway) == 3
    line = gateway.logged(reply.headers["x-request-id"])
    assert (line["error"], line["status"], line["retries"], line["path"]) == (
        "worker_broke_off",
        502,
        0,
        "/v1/die",
    )
    assert line["server"].startswith("inference-1:")
    assert gateway.ask("/v1/die", method="GET").status == 502
    assert taken(gateway) == 4


def test_the_same_holds_for_http_2(gateway: Gateway) -> None:
    url = f"https://{SERVICE}:{gateway.port}/v1/"
    said = subprocess.run(
        [
            *(
                "curl",
                "--silent",
                "--http2",
                "--cacert",
                str(gateway.pki / "ca.pem"),
                "--data",
                "{}",
                "--max-time",
                str(PATIENCE),
            ),
            *(
                "--resolve",
                f"{SERVICE}:{gateway.port}:127.0.0.1",
                "--write-out",
                "%{http_version} %{http_code} %{num_connects}\n",
            ),
            *(url + "chat", "--output", "/dev/null", url + "die", "--output", "/dev/null"),
        ],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert said.splitlines() == ["2 200 1", "2 502 0"]
    assert taken(gateway) == 2


@pytest.mark.parametrize("gateway", ["breaking"], indirect=True)
def test_whose_requests_end_workers_waits_and_nobody_else(gateway: Gateway) -> None:
    def asks(key: str) -> tuple[str, str]:
        # those that break off at about the same time count as one
        until(lambda: not re.search(r"gpc1_rate\(100\)=[1-9]", tables(gateway)))
        return ("Authorization", f"Bearer sk-{key}")

    statuses = [gateway.ask("/v1/die", asks("bad")).status for _again in range(5)]
    assert statuses == [502, 502, 502, 429, 429]
    reply = gateway.ask("/v1/chat/completions", asks("bad"))
    assert (reply.status, reply.error["code"]) == (429, "worker_breakage_limit")
    assert int(reply.headers["retry-after"]) > 0
    assert taken(gateway) == 3
    assert gateway.ask("/v1/chat/completions", asks("good")).status == 200
    # the address stands for who has no key, and for all of its keys where there are too many
    assert gateway.ask().status == 429
    for number in range(9):
        assert gateway.ask("/v1/die", asks(str(number))).status == 502
    assert gateway.ask("/v1/chat/completions", asks("good")).status == 429
    assert gateway.ask("/healthz", method="GET").status == 200


def test_all_that_one_dying_worker_had_counts_once(gateway: Gateway) -> None:
    """Many users of one application have one key, and one worker's end must not shut them out."""
    key = ("Authorization", "Bearer sk-application")
    assert [gateway.ask("/v1/die", key).status for _again in range(8)] == [502] * 8
    assert gateway.ask("/v1/chat/completions", key).status == 200


def tables(gateway: Gateway) -> str:
    return gateway.command("show table keys") + gateway.command("show table addresses")


def test_a_failure_that_a_worker_tells_of_itself_counts_for_nobody(gateway: Gateway) -> None:
    for worker in gateway.workers:
        worker.mode = "failing"
    assert [gateway.ask().status for _again in range(4)] == [500] * 4
    for worker in gateway.workers:
        worker.mode = "answer"
    assert gateway.ask().status == 200


def test_what_a_stopping_worker_gives_back_goes_to_another_and_425_to_no_client(
    gateway: Gateway,
) -> None:
    stopping, other = gateway.workers
    stopping.mode = "draining"
    for _again in range(4):
        assert gateway.ask().body == b'{"worker": "b"}'
    assert len(other.taken) == 4
    assert len(stopping.taken) > 0
    # more than fits in the buffer cannot be sent again, and the client is told to
    other.mode = "draining"
    for body in (b"{}", b"x" * 200_000):
        reply = gateway.ask(body=body)
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (
            503,
            "worker_stopping",
            "1",
        )


def test_a_refused_connection_is_tried_elsewhere_even_for_what_is_larger_than_the_buffer(
    gateway: Gateway,
) -> None:
    gateway.command("set server model:tiny/inference-1:a addr 127.0.0.1 port 1")
    gateway.command("disable health model:tiny/inference-1:a")
    retries = []
    for body in (b"{}", b"x" * 200_000):
        for _again in range(3):
            reply = gateway.ask(body=body)
            assert reply.body == b'{"worker": "b"}'
            retries.append(gateway.logged(reply.headers["x-request-id"])["retries"])
    assert max(retries) > 0


@pytest.mark.parametrize("gateway", ["quick"], indirect=True)
def test_a_worker_that_is_ready_and_hangs_is_left_out_by_outcome_and_taken_back(
    gateway: Gateway,
) -> None:
    hung, other = gateway.workers
    hung.mode = "hang"
    gateway.command("set server model:tiny/inference-1:b state drain")

    def status() -> str:
        rows = [line.split(",") for line in gateway.command("show stat").splitlines()]
        return next(row[17] for row in rows if row[:2] == ["model:tiny", "inference-1:a"])

    def left_out() -> bool:
        """After two requests at a time, which are bounded and not sent again."""
        replies: list[int] = []
        threads = [
            threading.Thread(target=lambda: replies.append(gateway.ask(body=STREAM).status))
            for _client in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(replies) <= {503, 504}
        return status().startswith("DOWN")

    # a health check between the two would count as a success
    until(left_out)
    assert other.taken == []
    until(lambda: status() == "UP")
    hung.mode = "answer"
    assert gateway.ask(body=STREAM).body == b'{"worker": "a"}'


@pytest.mark.parametrize("gateway", ["quick"], indirect=True)
def test_a_request_that_hangs_holds_up_no_other(gateway: Gateway) -> None:
    """One worker has a request that never ends; the next go to the one that has fewer."""
    with contextlib.closing(Client(gateway)) as client:
        head = f"POST /v1/hang HTTP/1.1\r\nHost: {SERVICE}\r\nContent-Length: 2\r\n\r\n{{}}"
        client.connection.sendall(head.encode())
        until(lambda: taken(gateway) == 1)
        assert [gateway.ask().status for _again in range(4)] == [200] * 4


def in_work(gateway: Gateway) -> int:
    """Requests that a worker has or that wait for one (management guide, section 9.1: scur)."""
    rows = [line.split(",") for line in gateway.command("show stat").splitlines()]
    return next(int(row[4]) for row in rows if row[:2] == ["model:tiny", "BACKEND"])


@pytest.mark.parametrize("gateway", ["quick"], indirect=True)
def test_a_slow_stream_is_no_hang(gateway: Gateway) -> None:
    for worker in gateway.workers:
        worker.mode = "stream"
    reply = gateway.ask(body=STREAM)
    assert reply.status == 200
    assert reply.body.count(b"data: x") == 8


def test_an_answer_without_a_stream_may_take_longer_than_a_first_byte(gateway: Gateway) -> None:
    """Its limit is gateway_response_timeout; here its client leaves, and the worker notices."""
    with contextlib.closing(Client(gateway)) as client:
        client.connection.sendall(
            f"POST /v1/hang HTTP/1.1\r\nHost: {SERVICE}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )
        until(lambda: taken(gateway) == 1)
    until(lambda: any(worker.hung_up.is_set() for worker in gateway.workers))


@pytest.mark.parametrize("gateway", ["quick"], indirect=True)
def test_requests_and_those_that_wait_are_bounded_for_each_worker(gateway: Gateway) -> None:
    for worker in gateway.workers:
        worker.mode = "hang"
    replies: list[tuple[int, str]] = []

    def ask() -> None:
        reply = gateway.ask()
        replies.append((reply.status, reply.error["code"] if reply.status else ""))

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=ask))
        threads[-1].start()
        # one after the other, so that each finds what those before have left
        until(lambda before=number: in_work(gateway) + len(replies) > before)
    # two at a time for each of the two, and one more waits; the rest is told at once
    assert replies == [(429, "queue_full")] * 3
    assert taken(gateway) == 4
    for worker in gateway.workers:
        worker.mode = "answer"
    gateway.process.kill()
    for thread in threads:
        thread.join()


def test_the_next_generation_takes_over_both_proxies(gateway: Gateway) -> None:
    with contextlib.closing(Client(gateway)) as client:
        assert client.ask().status == 200
        first = gateway.process
        gateway.start("-x", str(gateway.directory / "admin.sock"))
        until(lambda: f"Pid: {gateway.process.pid}\n" in gateway.command("show info"))
        first.send_signal(signal.SIGUSR1)
        # past its limits comes nobody who is not the gateway itself
        assert stat.S_IMODE((gateway.directory / "dispatch.sock").stat().st_mode) == 0o600
        # a connection of the first generation goes on, and ends with its answer
        assert client.ask().status == 200
    first.wait()
    for _again in range(5):
        assert gateway.ask().status == 200
