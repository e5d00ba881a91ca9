# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker that does what a test says, over mutual TLS."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
from typing import Any

from waiting import PATIENCE


class Worker:
    """Takes one request for each connection, over mutual TLS, and does what its mode says."""

    def __init__(self, name: str, context: ssl.SSLContext) -> None:
        self.name = name
        self.mode = "answer"
        self.ready = True
        self.taken: list[tuple[str, str]] = []
        self.heads: list[bytes] = []
        self.sizes: list[int] = []
        self.hung_up = threading.Event()
        self._release = threading.Event()
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        self.mode, self.ready = "answer", True
        self._release.set()
        self._release = threading.Event()
        self.hung_up.clear()
        self.taken.clear()
        self.heads.clear()
        self.sizes.clear()

    def close(self) -> None:
        self._release.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(plain, server_side=True) as connection,
        ):
            received = b""
            while b"\r\n\r\n" not in received:
                part = connection.recv(65536)
                if not part:
                    return
                received += part
            head, _blank, body = received.partition(b"\r\n\r\n")
            method, path, _version = head.split(b"\r\n")[0].decode("latin-1").split(" ")
            size = self._read(connection, head, body)
            if path == "/readyz":
                connection.sendall(response(200 if self.ready else 503, {"ready": self.ready}))
                return
            self.taken.append((method, path))
            self.heads.append(head)
            self.sizes.append(size)
            if size > allowed(head):
                connection.sendall(response(413, {"error": {"code": "request_too_large"}}))
                # as the service does: an answer is lost where a connection ends with bytes in it
                while connection.recv(65536):
                    pass
                return
            self._answer(connection, path)

    def _read(self, connection: ssl.SSLSocket, head: bytes, body: bytes) -> int:
        """Bytes of the body, of which it reads no more than are allowed."""
        length = re.search(rb"(?im)^content-length: *(\d+)", head)
        if length:
            while len(body) < int(length[1]):
                body += connection.recv(65536)
            return int(length[1])
        size = 0
        while b"\r\ntransfer-encoding: chunked" in head.lower() and size <= allowed(head):
            while b"\r\n" not in body:
                body += connection.recv(65536)
            line, _end, body = body.partition(b"\r\n")
            chunk = int(line, 16)
            while len(body) < chunk + 2:
                body += connection.recv(65536)
            body = body[chunk + 2 :]
            size += chunk
            if not chunk:
                break
        return size

    def _answer(self, connection: ssl.SSLSocket, path: str) -> None:
        mode = "hang" if "hang" in path else "die" if "die" in path else self.mode
        if mode == "die":
            return
        if mode == "hang":
            # A client that hangs up is seen as the end of what it sends.
            connection.settimeout(PATIENCE)
            if connection.recv(1) == b"":
                self.hung_up.set()
            return
        if mode == "stream":
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            )
            for _event in range(8):
                connection.sendall(b"data: x\n\n")
                self._release.wait(0.3)
            return
        status = {"draining": 425, "failing": 500}.get(mode, 200)
        connection.sendall(response(status, {"worker": self.name}))


def allowed(head: bytes) -> int:
    """Bytes of a body, as the gateway says."""
    said = re.search(rb"(?im)^x-deepseek-body-limit: *(\d+)", head)
    return int(said[1]) if said else 0


def response(status: int, content: dict[str, Any]) -> bytes:
    body = json.dumps(content).encode()
    return (
        b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nX-DeepSeek-Release: tiny/1@0\r\n"
        b"Connection: close\r\nX-Gateway-Error: forged\r\nContent-Length: %d\r\n\r\n"
        % (status, len(body))
    ) + body
