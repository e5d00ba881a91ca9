"""Mutual TLS: version 1.3, a client certificate of our authority, and one of the allowed names."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deepseek_serving.errors import SettingsError
from deepseek_serving.http.connections import Places
from deepseek_serving.http.errors import ApiError

# a connection on which no request begins is given up after
BEGIN_SECONDS = 30
# and one on which a request that has begun does not come to its end
READ_SECONDS = 60
CLOSE_SECONDS = 1
# bytes in which neither a head comes to its end nor any of a body is; the parser keeps them
MOST_HEAD = 64 * 2**10
# requests that wait for the answer to the one before them
MOST_PIPELINED = 16


def server_context(
    certificate: Path, key: Path, client_ca: Path, client_crl: Path | None = None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    for path in (certificate, key, client_ca, *([client_crl] if client_crl else [])):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise SettingsError(
            f"{certificate} and {key} are not a certificate and its key: {error.reason}"
        ) from error
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise SettingsError(f"{client_ca}: holds no certificate: {error.reason}") from error
    if client_crl is not None:
        try:
            context.load_verify_locations(client_crl)
        except ssl.SSLError as error:
            raise SettingsError(
                f"{client_crl}: holds no revocation list: {error.reason}"
            ) from error
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    return context


def common_name(certificate: dict[str, Any] | None) -> str | None:
    """The common name in what ssl's getpeercert() returns."""
    for attributes in (certificate or {}).get("subject", ()):
        for name, value in attributes:
            if name == "commonName":
                return str(value)
    return None


def _refusal(name: str | None) -> ASGIApp:
    error = ApiError(
        403,
        f"The client certificate's common name {name!r} is not among those allowed here.",
        kind="permission_error",
        code="client_not_allowed",
    )

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await error.response()(scope, receive, send)

    return refuse


def _named(app: ASGIApp, name: str) -> ASGIApp:
    """Tell the application who speaks, for its log."""

    async def with_name(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["tls_client"] = name
        await app(scope, receive, send)

    return with_name


def checked_protocol(allowed: Collection[str], places: Places) -> type[asyncio.Protocol]:
    """HTTP protocol of uvicorn with a check of the client certificate of every connection."""

    class CheckedProtocol(HttpToolsProtocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._beginning: asyncio.TimerHandle | None = None
            self._reading: asyncio.TimerHandle | None = None
            self._begun = False
            self._unread = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            places.greeted(self, transport, self.client[0] if self.client else None)
            self._beginning = self.loop.call_later(BEGIN_SECONDS, transport.abort)
            tls = transport.get_extra_info("ssl_object")
            name = common_name(tls.getpeercert() if tls else None)
            if name is not None and name in allowed:
                self.app = _named(self.app, name)
            else:
                self.app = _refusal(name)

        def connection_lost(self, exc: Exception | None) -> None:
            places.leave(self)
            # a timer would keep all that belongs to the connection until its time has come
            self._end_beginning()
            self._bound_reading(unfinished=False)
            self._unset_keepalive_if_required()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._unread += len(data)
            super().data_received(data)
            if self._unread > MOST_HEAD and not self.transport.is_closing():
                self.send_400_response("Invalid HTTP request received.")
            self._bound_reading(unfinished=self._unfinished)

        # what the parser tells while it is fed

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begun, self._unread = True, 0
            places.begun(self)

        def on_headers_complete(self) -> None:
            if len(self.pipeline) >= MOST_PIPELINED:
                raise ValueError("too many requests at once")
            names = {name for name, _value in self.headers}
            if self.parser.get_http_version() == "1.1" and b"host" not in names:
                # RFC 9112, section 3.2: such a request must be answered with 400
                raise ValueError("no Host")
            super().on_headers_complete()
            self._end_beginning()
            self._unread = 0
            if self.parser.should_upgrade():
                # there is no other protocol here, but the parser reads no further
                self.cycle.keep_alive = False

        def on_body(self, body: bytes) -> None:
            super().on_body(body)
            self._unread = 0

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._begun, self._unread = False, 0

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._bound_reading(unfinished=self._unfinished)

        @property
        def _unfinished(self) -> bool:
            """Whether it is the client's turn: a request has begun, and no answer is due before."""
            cycle = self.cycle
            answering = cycle is not None and not (cycle.more_body or cycle.response_complete)
            return (self._begun or self._unread > 0) and not (answering or self.pipeline)

        def _bound_reading(self, *, unfinished: bool) -> None:
            """However often something comes, a request must be complete in time."""
            if not unfinished and self._reading is not None:
                self._reading.cancel()
                self._reading = None
            elif unfinished and self._reading is None:
                self._reading = self.loop.call_later(READ_SECONDS, self.transport.abort)

        def _end_beginning(self) -> None:
            if self._beginning is not None:
                self._beginning.cancel()
                self._beginning = None

        def shutdown(self) -> None:
            super().shutdown()
            if self.transport.is_closing():
                # an idle client need not answer the end of TLS, for which asyncio waits long
                self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    return CheckedProtocol
