# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take orders over HTTP on a Unix socket, one after the other, each within bounds of size and time.

Nobody but HAProxy reaches the socket: it is in a directory of its user. HAProxy has TLS, and asks for the certificate of the
release host.
"""

from __future__ import annotations

import http
import json
import os
import socketserver
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from .lease import MAX_BYTES, OrderError

PATH = "/rollout"
# For a whole request, on a socket of this host.
SECONDS = 5

Answer = Callable[[bytes], dict[str, Any]]


class _Handler(BaseHTTPRequestHandler):
    """POST of an order, nothing else."""

    timeout = SECONDS
    server: _Server

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if self.path != PATH:
            self._send(http.HTTPStatus.NOT_FOUND, {"error": "there is nothing here"})
        elif not length.isascii() or not length.isdigit() or int(length) > MAX_BYTES:
            self._send(
                http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                {"error": f"a body of at most {MAX_BYTES} bytes, and its length, are needed"},
            )
        else:
            self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        try:
            self._send(http.HTTPStatus.OK, self.server.answer(body))
        except OrderError as error:
            self._send(http.HTTPStatus.CONFLICT, {"error": str(error)})

    def _send(self, status: http.HTTPStatus, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "haproxy"

    def log_message(self, _format: str, *args: Any) -> None:
        """Write nothing: what is taken is said by what it changes, and what is refused by the answer."""


class _Server(socketserver.UnixStreamServer):
    """One request at a time: there is one release host, and what it waits for is short."""

    request_queue_size = 8

    def __init__(self, path: str, answer: Answer) -> None:
        self.answer = answer
        super().__init__(path, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        sys.stderr.write(f"an order was not answered: {sys.exc_info()[1]}\n")


def listen(path: str, answer: Answer) -> socketserver.UnixStreamServer:
    """Return a server that is bound in place of one that ended; its user alone may connect."""
    if os.path.lexists(path):
        os.unlink(path)
    before = os.umask(0o177)
    try:
        return _Server(path, answer)
    finally:
        os.umask(before)
