"""Headers that decide who asks and what a request is: each is there once at most.

Programs on the way read a repeated header in different ways (the first, the last, all of them).
What one of them has checked must be what the next one uses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from deepseek_serving.http.errors import ApiError

# What the gateway says of a client; it takes away what the client itself sent by this name.
CLIENT = "x-deepseek-client"
CLIENT_LENGTH = 128
# and how many bytes of a body it lets through, where only who reads it can count them
BODY_LIMIT = "x-deepseek-body-limit"
# and which model answers, where it is another than the one that was asked for
FALLBACK = "x-deepseek-fallback"
# and the models, separated by commas, that do not exist for the client
HIDDEN = "x-deepseek-hidden"
# our own name for a request, and the client's
REQUEST_ID = "x-request-id"
CLIENT_REQUEST_ID = "x-client-request-id"
ONCE = frozenset(
    name.encode("ascii")
    for name in (
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "forwarded",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "x-api-key",
        CLIENT,
        BODY_LIMIT,
        FALLBACK,
        HIDDEN,
        CLIENT_REQUEST_ID,
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        REQUEST_ID,
    )
)

# where those that a request has are found once they were read
STATE = "headers"


def decisive(scope: Scope) -> Mapping[str, str]:
    """Those of ONCE that a request has, by name; of one that is repeated, the first."""
    state = scope.setdefault("state", {})
    found: Mapping[str, str] | None = state.get(STATE)
    if found is None:
        sent = [(name.lower(), value) for name, value in reversed(scope["headers"])]
        found = state[STATE] = {
            name.decode("ascii"): value.decode("latin-1") for name, value in sent if name in ONCE
        }
    return found


def repeated(scope: Scope) -> list[str]:
    """Names of the headers in ONCE that a request has more than once, in alphabetical order."""
    names = [name.lower() for name, _value in scope["headers"]]
    if len(set(names)) == len(names):
        return []
    counts = Counter(names)
    return sorted(name.decode("ascii") for name in ONCE if counts[name] > 1)


class OnceOnly:
    """Refuses requests that send one of ONCE more than once, before anything reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (names := repeated(scope)):
            error = ApiError(
                400,
                f"The header {names[0]!r} is there more than once. Send it once.",
                code="duplicate_header",
            )
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)
