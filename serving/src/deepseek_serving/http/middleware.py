"""Request middleware: request ID, access log and metrics."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek_serving.backends.base import Backend
from deepseek_serving.http.admission import largest_body, too_large
from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.fallback import note_fallback
from deepseek_serving.http.headers import CLIENT_REQUEST_ID, REQUEST_ID, decisive
from deepseek_serving.http.routes import label

logger = logging.getLogger(__name__)

# as the gateway takes them, too
ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# of what is logged; those that are served are shorter
LONGEST_PATH = 256
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
# where the request's own id is, for what is asked further on
STATE = "request_id"


def _refusal(headers: Mapping[str, str], client_id: str) -> ApiError | None:
    """What can be said before anything is read."""
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > (most := largest_body(headers)):
        return too_large(most)
    if client_id and not ID.fullmatch(client_id):
        return ApiError(
            400,
            f"The header {CLIENT_REQUEST_ID} may have up to 128 letters, digits and ._:/+=@-",
            code="invalid_header",
        )
    return None


class RequestContextMiddleware:
    """Names request and release in every response; logs all but the probes' requests.

    Neither prompts nor answers are logged. HEAD is answered as GET is; the server sends no body.
    """

    def __init__(self, app: ASGIApp, backend: Backend) -> None:
        self._app = app
        self._backend = backend
        self._release = (b"x-deepseek-release", backend.release.header.encode("latin-1"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 500
        headers = decisive(scope)
        note_fallback(headers)
        sent = headers.get(REQUEST_ID, "")
        request_id = sent if ID.fullmatch(sent) else secrets.token_hex(16)
        chosen = headers.get(CLIENT_REQUEST_ID, "")
        client_id = chosen if ID.fullmatch(chosen) else ""
        scope["state"][STATE] = request_id
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        named = [self._release, (REQUEST_ID.encode("ascii"), request_id.encode("ascii"))]
        if client_id:
            named.append((CLIENT_REQUEST_ID.encode("ascii"), client_id.encode("ascii")))

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # nothing that answers says any of these itself
                message["headers"] = [*message["headers"], *named]
            await send(message)

        try:
            if (refusal := _refusal(headers, chosen)) is not None:
                await refusal.response()(scope, receive, send_named)
            else:
                await self._app(asked, receive, send_named)
        finally:
            self._note(scope, status, (request_id, client_id), time.monotonic() - began)

    def _note(self, scope: Scope, status: int, ids: tuple[str, str], taken: float) -> None:
        path = scope["path"]
        self._backend.metrics.requests.labels(label(path), str(status)).inc()
        if path in QUIET:
            return
        state = scope.get("state", {})
        client = state.get("tls_client", "-")
        key = getattr(state.get("caller"), "key", None)
        fields = {
            "client": client,
            "method": scope["method"],
            "path": path[:LONGEST_PATH],
            "status": status,
            "seconds": round(taken, 3),
            "request_id": ids[0],
            "client_request_id": ids[1] or "-",
            "key": key.id if key else "-",
        }
        logger.info(
            "%(client)s %(method)s %(path)r %(status)d %(seconds).3f s request=%(request_id)s "
            "client_request=%(client_request_id)s key=%(key)s",
            fields,
            extra=fields,
        )
