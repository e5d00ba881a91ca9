"""Bodies nobody reads, ids of requests, HEAD and /health: what every request has, whatever it asks.

Through real sockets and mutual TLS, as a gateway asks.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import MODEL, Authority, Running
from waiting import connect_plain, until

from deepseek_serving.http.admission import LARGEST_BODY
from deepseek_serving.http.routes import ROUTES, needs_key, scope_of

CHAT = "/v1/chat/completions"
PIECE = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}


@pytest.fixture
def connection(service: Running, authority: Authority) -> Iterator[ssl.SSLSocket]:
    address = urlsplit(service.url)
    assert address.port is not None
    plain = connect_plain(address.port)
    context = authority.client("gateway-1")
    with context.wrap_socket(plain, server_hostname=address.hostname) as secured:
        yield secured


def head(*lines: str, path: str = CHAT) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def rest(connection: ssl.SSLSocket) -> tuple[bytes, dict[str, object]]:
    """All that comes until the end, which is no reset: the head and the body."""
    received = b"".join(iter(lambda: connection.recv(65536), b""))
    first, _blank, body = received.partition(b"\r\n\r\n")
    return first.lower(), json.loads(body)["error"]


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/nothing"])
def test_who_is_still_sending_gets_the_whole_answer_and_no_reset(
    connection: ssl.SSLSocket, path: str, *, declared: bool
) -> None:
    pieces = 2 * LARGEST_BODY // 0x10000
    length = f"Content-Length: {pieces * len(PIECE)}"
    connection.sendall(head(length if declared else "Transfer-Encoding: chunked", path=path))
    for _piece in range(pieces):
        connection.sendall(PIECE)
    if not declared:
        connection.sendall(b"0\r\n\r\n")
    first, error = rest(connection)
    assert b"\r\nconnection: close" in first
    wanted = (413, "request_too_large") if path == CHAT or declared else (404, "not_found")
    assert (int(first.split()[1]), error["code"]) == wanted


def test_a_gateway_may_allow_fewer_bytes_and_not_more(client: httpx.Client) -> None:
    def status(size: int, limit: str) -> int:
        pieces = iter([b" " * (size - 2), b"{}"])
        reply = client.post(CHAT, content=pieces, headers={"x-deepseek-body-limit": limit})
        assert reply.json()["error"]["type"] == "invalid_request_error"
        return reply.status_code

    assert status(1000, "1000") == 400
    assert status(1001, "1000") == 413
    assert status(LARGEST_BODY + 1, str(10 * LARGEST_BODY)) == 413
    assert status(1001, "none") == 400
    reply = client.post(CHAT, json=ASK, headers={"x-deepseek-body-limit": "3"})
    assert reply.json()["error"]["message"] == "The request body is larger than 3 bytes."


def test_a_short_body_that_nobody_read_costs_no_connection(connection: ssl.SSLSocket) -> None:
    for _again in range(3):
        connection.sendall(head("Content-Length: 5", path="/v1/nothing") + b"abcde")
        received = b""
        while not received.endswith(b"}}"):
            received += connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 404")
        assert b"connection: close" not in received.lower()


def test_both_ids_are_answered_and_logged(service: Running, client: httpx.Client) -> None:
    sent = {"x-request-id": "ours-1", "x-client-request-id": "ward/3:42+a=@_-."}
    for reply in (
        client.get("/v1/models", headers=sent),
        client.get("/v1/nothing", headers=sent),
        client.post(CHAT, content=b"{", headers=sent),
    ):
        assert {name: reply.headers[name] for name in sent} == sent
    # written once the answer is on its way
    said = "request=ours-1 client_request=ward/3:42+a=@_-. "
    until(lambda: service.log.read_text(encoding="utf-8").count(said) == 3)
    assert "x-client-request-id" not in client.get("/v1/models").headers


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200))
def test_an_id_of_another_form_is_refused_by_name(client: httpx.Client, sent: str) -> None:
    sent = sent.strip()
    allowed = all(c.isalnum() or c in "._:/+=@-" for c in sent) and len(sent) <= 128
    reply = client.get("/v1/models", headers={"x-client-request-id": sent})
    if allowed:
        assert reply.status_code == 200
        assert reply.headers.get("x-client-request-id", "") == sent
    else:
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "invalid_header"
        assert "x-client-request-id" not in reply.headers


@pytest.mark.parametrize("path", ["/v1/models", f"/v1/models/{MODEL}", "/health", "/healthz"])
def test_head_is_get_without_its_body(client: httpx.Client, path: str) -> None:
    asked, headed = client.get(path), client.head(path)
    assert headed.status_code == asked.status_code == 200
    assert headed.content == b""
    own = {"x-request-id", "date"}
    assert {name: value for name, value in headed.headers.items() if name not in own} == {
        name: value for name, value in asked.headers.items() if name not in own
    }
    # what is refused has no body, either, and the connection goes on
    assert client.head("/v1/nothing").content == b""


def test_an_endpoint_that_nobody_listed_needs_a_key() -> None:
    assert needs_key("/v1/invented")
    assert needs_key("/invented")
    assert not needs_key("/healthz")
    assert scope_of("/v1/models/tiny") == "models"
    assert scope_of("/v1/chat/completions/stored") == "chat"
    assert scope_of("/v1") is scope_of("/tokenize") is scope_of("") is None
    assert len({route.path for route in ROUTES}) == len(ROUTES)
    # what only hosts may ask needs no key of a client
    assert not any(route.needs_key for route in ROUTES if not route.for_clients)
