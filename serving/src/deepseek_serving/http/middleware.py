"""Request middleware: request ID, access log and metrics."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek_serving.backends.base import Backend
from deepseek_serving.http.admission import LARGEST_BODY, too_large

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# of what is logged; those that are served are shorter
LONGEST_PATH = 256
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class RequestContextMiddleware:
    """Names request and release in every response; logs all but the probes' requests.

    Neither prompts nor answers are logged.
    """

    def __init__(self, app: ASGIApp, backend: Backend, routes: Collection[str]) -> None:
        self._app = app
        self._backend = backend
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 500
        headers = Headers(scope=scope)
        sent = headers.get("x-request-id", "")
        request_id = sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named = MutableHeaders(scope=message)
                named["x-deepseek-release"] = self._backend.release.header
                named["x-request-id"] = request_id
            await send(message)

        try:
            length = headers.get("content-length", "0")
            if length.isdigit() and int(length) > LARGEST_BODY:
                await too_large().response()(scope, receive, send_named)
            else:
                await self._app(scope, receive, send_named)
        finally:
            self._note(scope, status, request_id, time.monotonic() - began)

    def _note(self, scope: Scope, status: int, request_id: str, taken: float) -> None:
        path = scope["path"]
        # only known paths: labels must not grow with what clients invent
        label = path if path in self._routes else "other"
        self._backend.metrics.requests.labels(label, str(status)).inc()
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
            "request_id": request_id,
            "key": key.id if key else "-",
        }
        logger.info(
            "%(client)s %(method)s %(path)r %(status)d %(seconds).3f s request=%(request_id)s "
            "key=%(key)s",
            fields,
            extra=fields,
        )
