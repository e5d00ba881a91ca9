"""The one list of what can be asked: metrics, keys, the gateway and docs/reference/api.md have it.

Tests compare the last two with it. An endpoint that is not here is counted as `other`, needs a key,
and is passed on by no gateway unless it is below /v1/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deepseek_serving.policy.keys import Scope


@dataclass(frozen=True)
class Route:
    """A path, and who may ask it."""

    path: str
    # what a key must be allowed to do; None: any key will do
    scope: Scope | None = None
    needs_key: bool = True
    # False: for the hosts of the site alone
    for_clients: bool = True


ROUTES = (
    Route("/v1/chat/completions", "chat"),
    Route("/v1/responses", "chat"),
    Route("/v1/completions", "completions"),
    Route("/v1/embeddings", "embeddings"),
    Route("/v1/rerank", "embeddings"),
    Route("/v2/rerank", "embeddings"),
    Route("/rerank", "embeddings"),
    Route("/v1/score", "embeddings"),
    Route("/score", "embeddings"),
    Route("/v1/models", "models"),
    Route("/tokenize"),
    Route("/detokenize"),
    Route("/version"),
    Route("/health", needs_key=False),
    Route("/openapi.json", needs_key=False),
    Route("/healthz", needs_key=False),
    Route("/readyz", needs_key=False, for_clients=False),
    Route("/metrics", needs_key=False, for_clients=False),
)
_BY_PATH: Mapping[str, Route] = {route.path: route for route in ROUTES}
# labels must not grow with what clients invent
OTHER = "other"


def label(path: str) -> str:
    """What a request for the path is counted as."""
    return path if path in _BY_PATH else OTHER


def needs_key(path: str) -> bool:
    """Whatever is not known to need none does."""
    route = _BY_PATH.get(path)
    return route is None or route.needs_key


def scope_of(path: str) -> Scope | None:
    """What a key must be allowed to do; an endpoint's scope is that of all paths below it."""
    while path:
        if path in _BY_PATH:
            return _BY_PATH[path].scope
        path = path.rpartition("/")[0]
    return None
