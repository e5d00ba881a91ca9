# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies with and without a declared length: passed on, sent again, refused with a whole answer."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import pytest
from gateway_process import SERVICE, Client, Gateway, Reply
from waiting import PATIENCE

MOST = 8388608
CHUNKED = ("Transfer-Encoding", "chunked")


def chunked(size: int, piece: int = 1 << 14) -> bytes:
    """A body of so many bytes in pieces, as HTTP/1.1 has it."""
    whole, rest = divmod(size, piece)
    pieces = [piece] * whole + [rest] * bool(rest)
    return b"".join(b"%x\r\n%s\r\n" % (one, b"x" * one) for one in pieces) + b"0\r\n\r\n"


def sizes(gateway: Gateway) -> list[int]:
    return sorted(size for worker in gateway.workers for size in worker.sizes)


@pytest.mark.parametrize("size", [0, 2, 65_000, 200_000, MOST])
def test_a_body_without_a_length_comes_whole(gateway: Gateway, size: int) -> None:
    with contextlib.closing(Client(gateway)) as client:
        for _again in range(2):
            reply = client.ask("/v1/chat/completions", CHUNKED, body=chunked(size))
            assert reply.status == 200
    assert sizes(gateway) == [size, size]


def test_a_post_without_a_body_is_the_services_to_judge(gateway: Gateway) -> None:
    with contextlib.closing(Client(gateway)) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n"
        assert client.raw(head.encode()).status == 200
    assert sizes(gateway) == [0]


@pytest.mark.parametrize("size", [MOST + 1, 3 * MOST])
@pytest.mark.parametrize("declared", [False, True])
def test_a_body_over_the_limit_is_refused_with_a_whole_answer(
    gateway: Gateway, size: int, *, declared: bool
) -> None:
    """Also to a client that reads nothing before it has sent all."""
    with contextlib.closing(Client(gateway)) as client:
        if declared:
            reply = client.ask(body=b"x" * size)
        else:
            reply = client.ask("/v1/chat/completions", CHUNKED, body=chunked(size))
    assert reply.status == 413
    assert json.loads(reply.body)["error"]["code"] == "request_too_large"
    line = gateway.logged(reply.headers["x-request-id"])
    assert (line["status"], line["error"]) == (413, "-")


def test_http_2_declares_no_length_and_has_the_same_limit(gateway: Gateway, tmp_path: Path) -> None:
    def curl(*options: str) -> list[str]:
        command = ["curl", "--silent", "--http2", "--max-time", str(PATIENCE)]
        command += ["--cacert", str(gateway.pki / "ca.pem"), "--write-out", "\n%{http_code}"]
        command += ["--resolve", f"{SERVICE}:{gateway.port}:127.0.0.1", *options]
        command.append(f"https://{SERVICE}:{gateway.port}/v1/chat/completions")
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return said.splitlines()

    # curl reads what it uploads from a pipe, and cannot tell how much there will be
    for limit, status in ((MOST, "200"), (MOST + 1, "413")):
        path = tmp_path / str(limit)
        path.write_bytes(b"x" * limit)
        upload = ["-X", "POST", "-H", "Content-Length:", "-T", str(path)]
        body, code = curl(*upload)
        assert code == status, body
        assert ("request_too_large" in body) == (status == "413")
    assert sizes(gateway)[0] == MOST


def test_what_fits_is_sent_again_without_a_length_too(gateway: Gateway) -> None:
    stopping, other = gateway.workers
    stopping.mode = "draining"
    for _again in range(4):
        reply = gateway.ask("/v1/chat/completions", CHUNKED, body=chunked(20_000))
        assert reply.body == b'{"worker": "b"}'
    assert set(other.sizes) == {20_000}
    assert len(stopping.taken) > 0
    # more cannot be sent again, and the client is told to
    other.mode = "draining"
    for size in (2, 200_000):
        reply = gateway.ask("/v1/chat/completions", CHUNKED, body=chunked(size))
        assert (reply.status, reply.error["code"]) == (503, "worker_stopping")
        assert reply.headers["retry-after"] == "1"


def test_a_refused_connection_is_tried_elsewhere_whatever_the_body(gateway: Gateway) -> None:
    gateway.command("set server model:tiny/inference-1:a addr 127.0.0.1 port 1")
    gateway.command("disable health model:tiny/inference-1:a")
    retries = []
    for size in (2, 200_000):
        for _again in range(3):
            reply = gateway.ask("/v1/chat/completions", CHUNKED, body=chunked(size))
            assert reply.body == b'{"worker": "b"}'
            retries.append(gateway.logged(reply.headers["x-request-id"])["retries"])
    assert max(retries) > 0
    assert sizes(gateway) == [2] * 3 + [200_000] * 3


@pytest.mark.parametrize(
    "coding", ["gzip, chunked", "chunked, chunked", "identity", "chunked;a=b", "xchunked"]
)
def test_no_other_coding_of_a_body_reaches_a_worker(gateway: Gateway, coding: str) -> None:
    """Programs on the way would see other bodies than the worker."""
    with contextlib.closing(Client(gateway)) as client:
        reply: Reply = client.ask(
            "/v1/chat/completions", ("Transfer-Encoding", coding), body=chunked(2)
        )
    assert 400 <= reply.status < 600
    assert sizes(gateway) == []
