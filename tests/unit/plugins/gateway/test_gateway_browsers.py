# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pages in browsers may ask (CORS): none but those of the origins that the role is given."""

from __future__ import annotations

import contextlib

import pytest
from gateway_process import SERVICE, Client, Gateway, Reply

LISTED = ("https://chat.example.org", "http://localhost:3000")
OTHERS = (
    "https://chat.example.org:8443",
    "https://CHAT.example.org",
    "http://chat.example.org",
    "https://chat.example.org.evil.test",
    "https://evil.test/https://chat.example.org",
    "null",
    "*",
    "",
)
CHAT = "/v1/chat/completions"
browsers = pytest.mark.parametrize("gateway", ["browsers"], indirect=True)


def preflight(gateway: Gateway, origin: str, path: str = CHAT) -> Reply:
    lines = [f"OPTIONS {path} HTTP/1.1", f"Host: {SERVICE}", f"Origin: {origin}"]
    lines += ["Access-Control-Request-Method: POST"]
    lines += ["Access-Control-Request-Headers: authorization,content-type", "Connection: close"]
    with contextlib.closing(Client(gateway)) as client:
        return client.raw("\r\n".join([*lines, "", ""]).encode())


def of_cors(reply: Reply) -> set[str]:
    return {name for name in reply.headers if name.startswith("access-control-") or name == "vary"}


def taken(gateway: Gateway) -> int:
    return sum(len(worker.taken) for worker in gateway.workers)


@browsers
def test_a_browser_is_told_before_it_asks_without_a_key(gateway: Gateway) -> None:
    for origin in LISTED:
        reply = preflight(gateway, origin)
        assert (reply.status, reply.body) == (204, b"")
        assert reply.headers["access-control-allow-origin"] == origin
        assert reply.headers["access-control-allow-methods"] == "GET, HEAD, POST"
        headers = reply.headers["access-control-allow-headers"].split(", ")
        assert {"authorization", "content-type", "x-stainless-retry-count"} <= set(headers)
        assert "*" not in headers
        assert reply.headers["access-control-max-age"] == "600"
        assert reply.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in reply.headers
    assert taken(gateway) == 0


@browsers
def test_pages_of_other_origins_get_no_leave(gateway: Gateway) -> None:
    for origin in OTHERS:
        reply = preflight(gateway, origin)
        assert (origin, reply.status, reply.error["code"]) == (origin, 403, "origin_not_allowed")
        assert of_cors(reply) == {"vary"}
        # what does not come from a page, or what a browser asks without asking first
        assert of_cors(gateway.ask(CHAT, ("Origin", origin))) == {"vary"}
    assert preflight(gateway, LISTED[0], "/metrics").status == 404


@browsers
def test_answers_and_refusals_may_be_read_with_what_they_say_of_themselves(
    gateway: Gateway,
) -> None:
    origin = ("Origin", LISTED[0])
    wrong_host = gateway.ask(CHAT, origin, ("Host", "other.test"))
    failed = gateway.ask("/v1/die", origin)
    for reply, status in ((gateway.ask(CHAT, origin), 200), (wrong_host, 421), (failed, 502)):
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == LISTED[0]
        exposed = reply.headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "retry-after", "x-ratelimit-remaining-tokens"} <= set(exposed)
        assert reply.headers["vary"] == "Origin"
    assert of_cors(gateway.ask()) == {"vary"}
    twice = gateway.ask(CHAT, origin, origin)
    assert (twice.status, of_cors(twice)) == (400, {"vary"})
    # OPTIONS that is no such question
    with contextlib.closing(Client(gateway)) as client:
        reply = client.ask(CHAT, origin, method="OPTIONS")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, POST")


def test_without_origins_there_is_no_header_of_it(gateway: Gateway) -> None:
    for origin in (*LISTED, *OTHERS):
        reply = preflight(gateway, origin)
        assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")
        assert of_cors(reply) == set()
        assert of_cors(gateway.ask(CHAT, ("Origin", origin))) == set()
