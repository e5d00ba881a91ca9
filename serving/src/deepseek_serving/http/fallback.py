"""Requests for another model that a gateway sends here, since no worker of it is ready.

They name the other model. Only the gateway knows that, and says so in a header that it takes away
from what clients send.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

from deepseek_serving.http.headers import FALLBACK

_ANSWERING: ContextVar[str] = ContextVar("answering_model", default="")


def note_fallback(headers: Mapping[str, str]) -> None:
    """Remember, for the request that is under way, which model answers instead."""
    _ANSWERING.set(headers.get(FALLBACK, ""))


def answers_instead(model: str) -> bool:
    """Whether the gateway has sent the request under way here instead of to what it names."""
    return _ANSWERING.get() == model
