"""What becomes of a body that nobody has read when its request is answered.

A connection that is closed with bytes in it is reset, and a reset takes with it what has not been
read on the other side: the answer. So the answer goes out whole, and the rest of the body is read
and thrown away before the connection ends, within bounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek_serving.http.headers import decisive

# more than this is a client that does not listen
MOST_UNREAD = 32 * 2**20
UNREAD_SECONDS = 10.0
# of a declared length: read at once, so that the connection can be used again
SHORT = 64 * 2**10


def _declared(headers: Mapping[str, str]) -> int | None:
    """Bytes of the body as the head says; None if it says that there is one and not how long."""
    if "transfer-encoding" in headers:
        return None
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else 0


class _Exchange:
    """One request with a body, and its answer."""

    def __init__(self, receive: Receive, send: Send, *, is_short: bool) -> None:
        self._receive = receive
        self._send = send
        self._is_short = is_short
        self._complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._complete = True
        return message

    async def send(self, message: Message) -> None:
        if self._complete:
            await self._send(message)
            return
        if message["type"] == "http.response.start" and not self._is_short:
            # nobody knows how much there is still to come
            MutableHeaders(scope=message)["connection"] = "close"
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last:
            await self._send({**message, "more_body": True})
            await self._read_on()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _read_on(self) -> None:
        try:
            await asyncio.wait_for(self._discard(), UNREAD_SECONDS)
        except asyncio.TimeoutError:
            return

    async def _discard(self) -> None:
        size = 0
        while not self._complete and size <= MOST_UNREAD:
            size += len((await self.receive()).get("body", b""))


class UnreadBodies:
    """Sends each answer before its connection ends, also to who is still sending a body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _declared(decisive(scope)) if scope["type"] == "http" else 0
        if length == 0:
            await self._app(scope, receive, send)
            return
        is_short = length is not None and length <= SHORT
        exchange = _Exchange(receive, send, is_short=is_short)
        await self._app(scope, exchange.receive, exchange.send)
