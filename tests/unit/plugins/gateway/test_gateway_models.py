# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which model's workers a request gets: by name and alias, wherever in the body the name stands."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import pytest
from gateway_process import Gateway, Reply
from waiting import until

SIDE_BY_SIDE = pytest.mark.parametrize("gateway", ["models"], indirect=True)
LISTED = pytest.mark.parametrize("gateway", ["listed"], indirect=True)
CHUNKED = ("Transfer-Encoding", "chunked")
CHAT = "/v1/chat/completions"
# which workers have which model
STABLE, CODE, OTHER = {"a", "b"}, {"d"}, {"e"}
# more than the gateway's own buffer holds, as the openai SDK writes it: messages before model
MEBIBYTE = "x" * (1 << 20)


def body(name: Any, messages: str = "", **more: Any) -> bytes:
    return json.dumps({**more, "messages": messages, "model": name}).encode()


def in_chunks(whole: bytes, piece: int) -> bytes:
    parts = [whole[start : start + piece] for start in range(0, len(whole), piece)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def worker(reply: Reply) -> str:
    assert reply.status == 200, reply.raw
    name: str = json.loads(reply.body)["worker"]
    return name


def order(gateway: Gateway, server: str, state: str) -> None:
    assert gateway.command(f"set server {server} state {state}").strip() == ""


@SIDE_BY_SIDE
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        *(("tiny", STABLE), ("tiny-latest", STABLE), ("org/tiny", STABLE)),
        *(("code", CODE), ("coder", CODE), ("other", OTHER)),
        # the default model's workers tell the client that there is none
        *(("tiny\n", STABLE), ("cod", STABLE), ("", STABLE), (None, STABLE), (7, STABLE)),
    ],
)
def test_the_name_decides_wherever_it_stands(gateway: Gateway, name: Any, wanted: set[str]) -> None:
    for messages in ("", MEBIBYTE):
        sent = body(name, messages)
        assert worker(gateway.ask(body=sent)) in wanted
        assert worker(gateway.ask(CHAT, CHUNKED, body=in_chunks(sent, 1 << 14))) in wanted
    first = json.dumps({"model": name, "messages": MEBIBYTE}).encode()
    assert worker(gateway.ask(body=first)) in wanted


@SIDE_BY_SIDE
def test_the_largest_body_is_read_for_its_name_and_a_larger_one_refused(gateway: Gateway) -> None:
    most = 8388608
    sent = body("code", "x" * (most - len(body("code"))))
    assert len(sent) == most
    assert worker(gateway.ask(body=sent)) in CODE
    assert worker(gateway.ask(CHAT, CHUNKED, body=in_chunks(sent, 1 << 16))) in CODE
    reply = gateway.ask(CHAT, CHUNKED, body=in_chunks(sent + b" " * 100_000, 1 << 16))
    assert (reply.status, reply.error_code) == (413, "request_too_large")


@SIDE_BY_SIDE
def test_what_the_name_is_inside_of_the_body_is_not_what_it_is(gateway: Gateway) -> None:
    """Only the key of the outermost object counts, and no header that a client sends."""
    inner = {"model": "other", "text": '"model":"other"'}
    assert worker(gateway.ask(body=body("code", tools=[inner], metadata=inner))) in CODE
    assert worker(gateway.ask(body=body("code", MEBIBYTE, metadata=inner))) in CODE
    forged = (("X-Gateway-Name", "b3RoZXI="), ("X-Gateway-Detoured", "yes"))
    assert worker(gateway.ask(CHAT, *forged, body=body("code", MEBIBYTE))) in CODE
    told = [head for one in gateway.workers for head in one.heads]
    assert not any(b"x-gateway-" in head.lower() for head in told)


@SIDE_BY_SIDE
def test_the_line_says_which_model_answered(gateway: Gateway) -> None:
    for messages in ("", MEBIBYTE):
        reply = gateway.ask(body=body("coder", messages))
        line = gateway.logged(reply.headers["x-request-id"])
        assert (line["model"], line["canary"], line["server"]) == ("code", False, "inference-1:d")
        assert line["release"] == "tiny/1@0"
        assert not any(name.startswith("x-gateway-") for name in reply.headers)


@SIDE_BY_SIDE
def test_another_model_answers_for_one_without_a_ready_worker_where_it_is_the_fallback(
    gateway: Gateway,
) -> None:
    order(gateway, "model:code/inference-1:d", "drain")
    order(gateway, "model:other/inference-1:e", "drain")
    for messages in ("", MEBIBYTE):
        answering = worker(gateway.ask(body=body("code", messages)))
        assert answering in STABLE
        # which the worker is told, since the name is not its own
        told = gateway.workers["ab".index(answering)].heads[-1].lower()
        assert b"\r\nx-deepseek-fallback: tiny\r\n" in told + b"\r\n"
        reply = gateway.ask(body=body("other", messages))
        assert (reply.status, reply.error_code) == (503, "no_worker_ready")
    order(gateway, "model:code/inference-1:d", "ready")
    assert worker(gateway.ask(body=body("code"))) in CODE
    assert b"x-deepseek-fallback" not in gateway.workers[3].heads[-1].lower()


@SIDE_BY_SIDE
def test_what_asks_no_model_is_answered_while_any_worker_is_ready(gateway: Gateway) -> None:
    for name in "abcfd":
        model = "code" if name == "d" else "tiny"
        order(gateway, f"model:{model}/inference-1:{name}", "drain")
    assert gateway.ask("/v1/models", method="GET").body == b'{"worker": "e"}'
    assert gateway.ask("/health", method="GET").status == 200
    assert gateway.ask("/healthz", method="GET").body == b"1 of 6 inference workers answer\n"
    order(gateway, "model:other/inference-1:e", "drain")
    assert gateway.ask("/health", method="GET").status == 503


@SIDE_BY_SIDE
def test_a_request_that_ends_its_worker_is_sent_to_no_other_after_a_detour_either(
    gateway: Gateway,
) -> None:
    for messages in ("", MEBIBYTE):
        reply = gateway.ask("/v1/die", body=body("tiny", messages))
        assert (reply.status, reply.error_code) == (502, "worker_broke_off")
        assert reply.headers["x-should-retry"] == "false"
        line = gateway.logged(reply.headers["x-request-id"])
        assert (line["error"], line["retries"]) == ("worker_broke_off", 0)
    assert sum(len(one.taken) for one in gateway.workers) == 2


@SIDE_BY_SIDE
def test_what_a_stopping_worker_gives_back_is_not_lost_after_a_detour_either(
    gateway: Gateway,
) -> None:
    gateway.workers[0].mode = "draining"
    for _again in range(4):
        assert worker(gateway.ask(body=body("tiny"))) == "b"
    gateway.workers[1].mode = "draining"
    reply = gateway.ask(body=body("tiny", MEBIBYTE))
    assert (reply.status, reply.error_code) == (503, "worker_stopping")
    assert reply.headers["retry-after"] == "1"


@SIDE_BY_SIDE
def test_without_the_detour_a_request_is_refused_and_all_others_are_served(
    gateway: Gateway,
) -> None:
    assert gateway.detour is not None
    gateway.detour.send_signal(signal.SIGTERM)
    gateway.detour.wait()
    # HAProxy 2.6 closes under the rest of the body, and its answer may be lost
    assert gateway.ask(body=body("code", MEBIBYTE)).status in (0, 503)
    assert worker(gateway.ask(body=body("code"))) in CODE
    gateway.start_detour()
    until(lambda: gateway.ask(body=body("code", MEBIBYTE)).status == 200)


@LISTED
def test_a_model_that_a_certificate_may_not_use_does_not_exist_for_it(gateway: Gateway) -> None:
    """However its name is written, and whether or not there is a name."""
    hidden = (404, "model_not_found", "model")
    code_only = {"certificate": "client.pem"}
    escaped = b'{"mo\\u0064el": "tiny", "messages": []}'
    for messages in ("", MEBIBYTE):
        assert worker(gateway.ask(body=body("code", messages), **code_only)) in CODE
        for name in ("tiny", "org/tiny", "other", "nothing"):
            reply = gateway.ask(body=body(name, messages), **code_only)
            assert (reply.status, reply.error_code, reply.error["param"]) == hidden
    for sent in (escaped, b"{}", b"", escaped + b" " * (1 << 20)):
        assert gateway.ask(body=sent, **code_only).status == 404
    assert gateway.ask("/v1/models/tiny", method="GET", **code_only).status == 404
    assert gateway.ask("/v1/models/coder", method="GET", **code_only).status == 200
    # workers are told, so that they do not list the others
    assert worker(gateway.ask("/v1/models", method="GET", **code_only)) in STABLE
    listing = [head.lower() for one in gateway.workers for head in one.heads][-1]
    told = re.search(rb"(?m)^x-deepseek-hidden: (\S+)", listing)
    assert told is not None
    assert set(told[1].split(b",")) == {b"tiny", b"other"}
    # the fallback is none of its models
    order(gateway, "model:code/inference-1:d", "drain")
    assert gateway.ask(body=body("code"), **code_only).status == 503
    # and who is not listed may use all
    assert worker(gateway.ask(body=body("other"))) in OTHER
    assert worker(gateway.ask(body=body("code"), certificate="worker.pem")) in STABLE
