# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who asks: one value for each header, names, addresses, and a log that is always JSON."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import subprocess
import sys
from typing import Any

import pytest
from gateway_process import HAPROXY, SERVICE, Client, Gateway, Site
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE, until

SINGLE = (
    "Authorization",
    "Content-Type",
    "X-Request-Id",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Real-IP",
    "Client-Cert",
    "Proxy-Authorization",
    "X-API-Key",
)
OWN = (
    "X-Forwarded-Host",
    "x_forwarded_for",
    "Forwarded",
    "Client-Cert",
    "X-SSL-Client-CN",
    "X-Gateway-Error",
    "X-DeepSeek-Key",
)


def test_a_header_that_decides_something_is_refused_twice_and_reaches_no_worker(
    gateway: Gateway,
) -> None:
    for name in SINGLE:
        for second in ("a", "b"):
            reply = gateway.ask("/v1/chat/completions", (name, "a"), (name.swapcase(), second))
            assert (name, reply.status, reply.error["code"]) == (name, 400, "duplicate_header")
    # these are not HTTP, and HAProxy says so before any rule
    for lines in (
        "Host: a\r\nHost: b",
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 2\r\nContent-Length: x",
    ):
        with contextlib.closing(Client(gateway)) as client:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {SERVICE}\r\n{lines}\r\n\r\n"
            reply = client.raw(head.encode() + b"{}")
        assert (lines, reply.status) == (lines, 400)
    assert gateway.workers[0].taken + gateway.workers[1].taken == []


@pytest.mark.parametrize("gateway", ["counting"], indirect=True)
def test_the_limit_the_log_and_the_service_see_one_key(gateway: Gateway) -> None:
    asked = [
        gateway.ask("/v1/chat/completions", ("Authorization", value))
        for value in (
            "Bearer sk-1",
            "bearer sk-1",
            "BEARER   sk-1",
            "Bearer sk-1  ",
            "Bearer sk-1",
            "Bearer  sk-1",
        )
    ]
    assert [reply.status for reply in asked] == [200] * 5 + [429]
    assert asked[5].error["code"] == "key_rate_limit"
    expected = hashlib.sha256(b"sk-1").hexdigest()[:12]
    assert {gateway.logged(reply.headers["x-request-id"])["key"] for reply in asked} == {expected}
    # what one reader may strip or cut and another not: white space of Unicode, control characters
    assert (
        gateway.ask(
            "/v1/models", ("Authorization", "Bearer sk-2, Bearer sk-3"), method="GET"
        ).status
        == 200
    )
    for value in (
        "Bearer sk-1\xa0",
        "Bearer sk-1\x85",
        "Bearer\tsk-1",
        "Bearer sk-1\x1f",
        "Bearer sk-\x00",
    ):
        assert gateway.ask("/v1/models", ("Authorization", value), method="GET").status == 400, (
            value
        )


def test_what_the_gateway_tells_workers_no_client_tells_them(gateway: Gateway) -> None:
    reply = gateway.ask(
        "/v1/chat/completions",
        *((name, "forged") for name in OWN),
        ("X-Request-Id", "of-the-client"),
        ("X-Forwarded-For", "forged"),
    )
    assert reply.status == 200
    head = (gateway.workers[0].heads + gateway.workers[1].heads)[0].decode().lower()
    assert "forged" not in head
    assert "\r\nx-request-id: of-the-client" not in head
    assert "x-forwarded-for: 127.0.0.1" in head
    assert "x-deepseek-client: 127.0.0.1\r\n" in head
    assert f"x-request-id: {reply.headers['x-request-id']}" in head
    # nor does a worker tell clients, or the log, what only the gateway knows
    assert not any(name.startswith("x-gateway") for name in reply.headers)
    assert gateway.logged(reply.headers["x-request-id"])["error"] == "-"


def test_a_clients_own_id_is_kept_beside_ours(gateway: Gateway) -> None:
    """In the answer, in the log and towards the worker; of two names the more definite one."""
    own, also = ("X-Client-Request-Id", "ward/3:42+a=@_-."), ("x-request-id", "0af7651916cd43dd")
    for headers, kept in (((own,), own[1]), ((also,), also[1]), ((also, own), own[1])):
        for path in ("/v1/chat/completions", "/v1/die", "/nothing", "/healthz"):
            reply = gateway.ask(path, *headers)
            assert (path, reply.headers["x-client-request-id"]) == (path, kept)
            ours = reply.headers["x-request-id"]
            assert len(ours) == 36
            assert gateway.logged(ours)["client_request_id"] == kept
        heads = [worker.heads[-1] for worker in gateway.workers if worker.heads]
        assert any(f"x-client-request-id: {kept}\r\n".encode() in head for head in heads)
    reply = gateway.ask()
    assert "x-client-request-id" not in reply.headers
    assert gateway.logged(reply.headers["x-request-id"])["client_request_id"] == "-"


def test_an_id_that_is_none_is_refused_by_its_own_name_and_left_out_by_another(
    gateway: Gateway,
) -> None:
    for wrong in ("a b", 'a"b', "a\\b", "a\x7f", "\xfc", "a,b", "{}", "a\tb", "x" * 129):
        reply = gateway.ask("/v1/models", ("X-Client-Request-Id", wrong), method="GET")
        assert (wrong, reply.status, reply.error["code"]) == (wrong, 400, "invalid_header")
        gateway.logged(reply.headers["x-request-id"])
        reply = gateway.ask("/v1/models", ("X-Request-Id", wrong), method="GET")
        assert (wrong, reply.status) == (wrong, 200)
        assert "x-client-request-id" not in reply.headers
    long = ("X-Client-Request-Id", "x" * 128)
    assert gateway.ask("/v1/models", long, method="GET").headers[long[0].lower()] == long[1]


def test_what_is_asked_beside_v1_is_passed_on_where_the_service_has_it(gateway: Gateway) -> None:
    for path in ("/openapi.json", "/version", "/tokenize", "/detokenize", "/v2/rerank", "/score"):
        assert (path, gateway.ask(path).status) == (path, 200)
    for path in ("/metrics", "/readyz", "/docs", "/version/", "/rerank2", "/"):
        assert (path, gateway.ask(path, method="GET").status) == (path, 404)


def test_health_is_of_the_workers_and_says_no_more(gateway: Gateway) -> None:
    def health(method: str) -> tuple[int, bytes]:
        with contextlib.closing(Client(gateway)) as client:
            head = f"{method} /health HTTP/1.1\r\nHost: {SERVICE}\r\nConnection: close\r\n\r\n"
            reply = client.raw(head.encode())
        return reply.status, reply.body

    assert health("GET") == health("HEAD") == (200, b"")
    gateway.workers[0].ready = False
    assert health("GET") == (200, b"")
    gateway.workers[1].ready = False
    until(lambda: health("GET")[0] == 503)
    reply = gateway.ask("/health", method="GET")
    assert (reply.error["code"], reply.error["type"]) == ("no_worker_ready", "server_error")
    assert reply.headers["retry-after"] == "5"
    assert reply.headers["content-type"] == "application/json"
    assert health("HEAD") == (503, b"")
    assert gateway.ask("/health").error["code"] == "method_not_allowed"
    assert gateway.ask("/v1/models", method="GET").error["code"] == "no_worker_ready"


def test_a_worker_is_never_told_a_name_that_a_client_chose(gateway: Gateway) -> None:
    """A redirect that it builds from Host leads to the service."""
    for host in (
        SERVICE,
        SERVICE.upper(),
        SERVICE + ".",
        f"{SERVICE}:{gateway.port}",
        "alias.test",
        "a.wild.test",
        "127.0.0.1",
        "192.0.2.7:443",
        "[2001:db8:0::7]",
        "[2001:DB8::7]:443",
    ):
        assert (host, gateway.ask("/v1/models", ("Host", host), method="GET").status) == (host, 200)
    for head in gateway.workers[0].heads + gateway.workers[1].heads:
        assert f"host: {SERVICE}:{gateway.port}" in head.decode().split("\r\n")
    for host in (
        "evil.test",
        f"{SERVICE}.evil.test",
        "wild.test",
        "evil" + SERVICE,
        "192.0.2.8",
        "[2001:db8::8]",
        "",
        "::1",
    ):
        reply = gateway.ask("/v1/models", ("Host", host), method="GET")
        assert (host, reply.status) in ((host, 421), (host, 400))
    assert gateway.ask("/healthz", ("Host", "10.9.8.7"), method="GET").status == 200


# In a network of its own: a connection from each of its addresses, and what HAProxy counts.
CONNECT = """
import socket, subprocess, sys, time
sources = sys.argv[3:]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for source in sources:
    options = ["nodad"] if ":" in source else []
    subprocess.run(["ip", "address", "add", source, "dev", "lo", *options], check=True)
haproxy = subprocess.Popen([sys.argv[1], "-db", "-f", "haproxy.cfg"])
try:
    held = []
    for source in sources:
        while True:
            try:
                to = (source, int(sys.argv[2]))
                held.append(socket.create_connection(to, source_address=(source, 0)))
                break
            except ConnectionRefusedError:
                assert haproxy.poll() is None
                time.sleep(0.05)
    counted = ""
    while sum(int(part.split()[0]) for part in counted.split("conn_cur=")[1:]) < len(sources):
        with socket.socket(socket.AF_UNIX) as control:
            control.connect("admin.sock")
            control.sendall(b"show table addresses\\n")
            counted = b"".join(iter(lambda: control.recv(65536), b"")).decode()
    print(counted)
finally:
    haproxy.kill()
    haproxy.wait()
"""


def test_an_ipv6_client_is_its_network_and_an_ipv4_client_its_address(site: Site) -> None:
    """Also where one socket takes both, and IPv4 comes mapped to IPv6."""
    sources = [
        "2001:db8:0:1::1",
        "2001:db8:0:1:ffff::2",
        "2001:db8:0:2::1",
        "192.0.2.1",
        "192.0.2.2",
    ]
    directory = site.directory / "dual"
    port = str(site.ports["dual"])
    done = subprocess.run(
        [
            *("unshare", "--map-root-user", "--net", sys.executable, "-c", CONNECT),
            *(str(HAPROXY), port, *sources),
        ],
        cwd=directory,
        env={**os.environ, "GATEWAY_CLIENT_DIR": str(site.pki)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counted = dict(re.findall(r"key=(\S+) .*conn_cur=(\d+)", done.stdout))
    assert counted == {
        "2001:db8:0:1::": "2",
        "2001:db8:0:2::": "1",
        "::ffff:192.0.2.1": "1",
        "::ffff:192.0.2.2": "1",
    }


def test_every_refusal_has_the_shape_of_openai(gateway: Gateway) -> None:
    for request, status in (
        (b"GET /v1/models HTTP/1.1\r\nHost: deepseek.test\r\nOrigin: a\r\nOrigin: b\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: other.test\r\n\r\n", 421),
        (b"GET /other HTTP/1.1\r\nHost: deepseek.test\r\n\r\n", 404),
        (b"PUT /v1/models HTTP/1.1\r\nHost: deepseek.test\r\nContent-Length: 0\r\n\r\n", 405),
        (b"OPTIONS /v1/x HTTP/1.1\r\nHost: deepseek.test\r\nOrigin: https://a\r\n\r\n", 405),
        (b"POST /v1/x HTTP/1.1\r\nHost: deepseek.test\r\nContent-Length: 8388609\r\n\r\n", 413),
    ):
        with contextlib.closing(Client(gateway)) as client:
            reply = client.raw(request)
        assert (reply.status, bool(reply.error["message"])) == (status, True)
        gateway.logged(reply.headers["x-request-id"])


def hostile() -> st.SearchStrategy[bytes]:
    piece = st.one_of(
        st.sampled_from(
            [
                b'"',
                b"\\",
                b'","x":"',
                b"%22%00",
                b"\x7f",
                b"\xff\xfe",
                "\u00fc\u8a9e\U0001f600".encode(),
                b"\\u12",
                b"'",
                b"{}",
                b"#",
                b"\t",
            ]
        ),
        st.binary(min_size=1, max_size=8),
    )
    return st.builds(
        lambda pieces, times: b"".join(pieces) * times,
        st.lists(piece, min_size=1, max_size=6),
        st.sampled_from([1, 1, 40, 400]),
    )


def test_every_line_of_the_log_is_json_whatever_was_sent(gateway: Gateway) -> None:
    def ask(request: bytes) -> list[dict[str, Any]]:
        """One request, and all lines up to that of a harmless one after it."""
        with contextlib.closing(Client(gateway)) as client:
            client.raw(request + b"\r\nConnection: close\r\n\r\n")
        last = gateway.ask("/v1/models", method="GET").headers["x-request-id"]
        lines = []
        while not lines or lines[-1].get("request_id") != last:
            lines.append(gateway.next_line())
        return lines[:-1]

    @settings(max_examples=40)
    @given(method=hostile(), path=hostile(), header=hostile())
    def holds(method: bytes, path: bytes, header: bytes) -> None:
        for start in (b"GET /v1/" + path, method + b" /v1/models"):
            for line in ask(
                start + b" HTTP/1.1\r\nHost: deepseek.test\r\nAuthorization: " + header
            ):
                assert len(line.get("path", "")) <= 1024

    holds()
    for path in (b"a" * 9000, b'"' * 9000, b"\\" * 60000, b"%22" * 3000):
        (line,) = ask(b"GET /v1/" + path + b" HTTP/1.1\r\nHost: deepseek.test")
        assert line["path"] == ("/v1/" + path.decode())[:1024]
    (line,) = ask(b"M" * 9000 + b" /v1/models HTTP/1.1\r\nHost: deepseek.test")
    assert (line["method"], line["status"]) == ("M" * 16, 405)


@pytest.mark.parametrize("gateway", ["certificates"], indirect=True)
def test_a_name_in_a_certificate_is_bounded_and_escaped_in_the_log(gateway: Gateway) -> None:
    with contextlib.closing(Client(gateway, certificate="hostile.pem")) as client:
        reply = client.ask("/v1/embeddings")
    assert reply.status == 200
    assert gateway.logged(reply.headers["x-request-id"])["certificate"].startswith('"}')
    # workers tell clients apart by a fingerprint, which no name can imitate
    heads = b"".join(worker.heads[-1] for worker in gateway.workers if worker.heads)
    assert re.search(rb"x-deepseek-client: [0-9a-f]{40}\r\n", heads.lower())
    assert gateway.ask("/v1/embeddings").error["code"] == "certificate_required"
    # a connection that is no TLS is a line of its own, and JSON as well
    with socket.create_connection(("127.0.0.1", gateway.port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        plain.recv(100)
    while "tls_error" not in (entry := gateway.next_line()):
        pass
    assert entry["client"] == "127.0.0.1"
