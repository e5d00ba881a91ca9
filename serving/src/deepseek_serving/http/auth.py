"""Who asks: a key of the key file; where there is none, the client certificate and its client."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.headers import CLIENT, CLIENT_LENGTH, HIDDEN, decisive
from deepseek_serving.http.routes import needs_key, scope_of
from deepseek_serving.policy.catalogue import Catalogue
from deepseek_serving.policy.keys import Key, KeyRing, KeysUnavailableError
from deepseek_serving.policy.limits import Allowance, Limiter, Refusal


def _refused(refusal: Refusal) -> ApiError:
    allowed = f"The key allows {refusal.limit} {refusal.quota} per minute"
    if refusal.never:
        return ApiError(
            400,
            f"{allowed}, and this request alone may take more. Shorten the prompt or lower "
            "max_tokens.",
            code="request_exceeds_quota",
        )
    wait = max(1, math.ceil(refusal.seconds))
    return ApiError(
        429,
        f"{allowed}; try again in {wait} s.",
        kind="tokens" if refusal.quota == "tokens" else "requests",
        code="rate_limit_exceeded",
        headers={"retry-after": str(wait)},
    )


@dataclass(frozen=True)
class Caller:
    """Who a request is counted for.

    `line` is where it waits, and whose tokens it may find in the cache: nobody else's. `names` are
    those of the models that its key allows, None for all, and `hidden` are those that the gateway
    keeps from it.
    """

    line: str
    key: Key | None = None
    allowance: Allowance | None = None
    names: frozenset[str] | None = None
    hidden: frozenset[str] = frozenset()

    def take(self, quota: str, amount: int) -> None:
        """Raises ApiError when the quota is used up."""
        refusal = self.allowance.take(quota, amount) if self.allowance else None
        if refusal is not None:
            raise _refused(refusal)

    def may_use(self, name: str) -> bool:
        return name not in self.hidden and (self.names is None or name in self.names)

    def no_model(self, name: str, otherwise: str) -> ApiError:
        """A model that the caller cannot have; who may not use all is not told which there are."""
        hidden = f"The model {name!r} does not exist or you do not have access to it."
        said = otherwise if self.names is None and not self.hidden else hidden
        return ApiError(404, said, param="model", code="model_not_found")

    def settle(self, reserved: int, used: int) -> None:
        if self.allowance is not None:
            self.allowance.settle(reserved, used)


async def caller(request: Request) -> Caller:
    """The dependency with which routes ask who asks.

    Not a plain function: the framework runs those in a thread, which costs more than all of this.
    """
    found = request.scope["state"]["caller"]
    assert isinstance(found, Caller)
    return found


class Access:
    """Lets a request through if its key is in force and has the scope and the rate.

    Probes and the document need none, see the list of routes.
    """

    def __init__(self, app: ASGIApp, ring: KeyRing | None, catalogue: Catalogue) -> None:
        self._app = app
        self._ring = ring
        self._catalogue = catalogue
        self._limiter = Limiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not needs_key(scope["path"]):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        certificate = state.get("tls_client", "")
        hidden = self._hidden(scope)
        known = Caller(line=_anonymous(certificate, scope), hidden=hidden)
        try:
            if self._ring is not None and certificate not in self._ring.exempt_clients:
                known = state["caller"] = self._known(self._ring, scope, hidden)
                self._admit(known, scope)
            state["caller"] = known
        except ApiError as error:
            known = state.get("caller", known)
            await error.response()(scope, receive, _with_limits(known, send))
            return
        await self._app(scope, receive, _with_limits(known, send))

    def _hidden(self, scope: Scope) -> frozenset[str]:
        sent = decisive(scope).get(HIDDEN)
        return self._catalogue.names(sent.split(",")) if sent else frozenset()

    def _known(self, ring: KeyRing, scope: Scope, hidden: frozenset[str]) -> Caller:
        kind, _space, sent = decisive(scope).get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not sent:
            raise ApiError(
                401,
                "You didn't provide an API key. Send it in the header Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        try:
            key = ring.find(sent.strip())
        except KeysUnavailableError as error:
            raise ApiError(
                503,
                "API keys cannot be checked at the moment; try again later.",
                kind="server_error",
                code="keys_unavailable",
                headers={"retry-after": "30"},
            ) from error
        if key is None:
            raise ApiError(
                401,
                "Incorrect API key provided: it is unknown here, revoked or expired.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        names = None if key.models is None else self._catalogue.names(key.models)
        return Caller(key.id, key, self._limiter.of(key), names, hidden)

    def _admit(self, known: Caller, scope: Scope) -> None:
        assert known.key is not None
        needed = scope_of(scope["path"])
        if needed is not None and needed not in known.key.scopes:
            raise ApiError(
                403,
                f"This key may not do that: it lacks the scope {needed!r}.",
                kind="permission_error",
                code="insufficient_scope",
            )
        if scope["method"] == "POST":
            known.take("requests", 1)


def _anonymous(certificate: str, scope: Scope) -> str:
    """Tell clients without keys apart: by certificate, and by what a gateway says of them.

    What a client may say of itself stays within its own certificate's name.
    """
    client = decisive(scope).get(CLIENT, "")
    if len(client) > CLIENT_LENGTH:
        client = hashlib.sha256(client.encode("latin-1", "replace")).hexdigest()
    return f"{certificate}/{client}" if client else certificate


def _with_limits(known: Caller, send: Send) -> Send:
    """Say in the response's headers what the key has left."""
    allowance = known.allowance
    if allowance is None:
        return send

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(allowance.headers())
        await send(message)

    return send_with
