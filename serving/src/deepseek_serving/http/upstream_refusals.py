"""What an upstream's refusals and failures are to our clients."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping

import httpx2

from deepseek_serving.backends.errors import too_long
from deepseek_serving.backends.upstream import error_text
from deepseek_serving.http.errors import ApiError

logger = logging.getLogger(__name__)

# What our client is to blame for, and may put right.
CLIENT_ERRORS = frozenset({400, 413, 422})
# a server's ways to say that it has no such endpoint, or that its model cannot do this
ABSENT = frozenset({404, 405, 501})
# How vLLM, SGLang and llama.cpp say that a prompt is too long, and for what.
CONTEXT = re.compile(r"context (?:length|size|window)|maximum allowed length", re.IGNORECASE)
LENGTH = re.compile(r"context length (?:is |of |\()(?:only )?([0-9]+)")
TOO_LONG = too_long("", "").partition(" is ")[0]
PROMPTS = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
    "/v1/rerank": "documents",
    "/v1/score": "text_2",
}
MOST_PARAM = 64


def failed(status: int, message: str) -> ApiError:
    """The engine has, and not the client."""
    headers = {"retry-after": "5"} if status == 503 else None
    return ApiError(
        status, message, kind="server_error", code="engine_unavailable", headers=headers
    )


def _param(content: bytes) -> str | None:
    """Which parameter the upstream complains of, if it names one."""
    try:
        body = json.loads(content)
    except ValueError:
        return None
    error = body.get("error") if isinstance(body, Mapping) else None
    named = error.get("param") if isinstance(error, Mapping) else None
    return named if isinstance(named, str) and 0 < len(named) <= MOST_PARAM else None


def _context_exceeded(message: str, longest: int | None, path: str) -> ApiError | None:
    """What servers say in many ways, as clients know it; None for another message."""
    if not CONTEXT.search(message):
        return None
    if not message.startswith(TOO_LONG):
        message = too_long(longest or next(iter(LENGTH.findall(message)), "fewer"), message)
    return ApiError(400, message, param=PROMPTS.get(path), code="context_length_exceeded")


async def refusal(
    response: httpx2.Response, longest: int | None, path: str, *, may_be_absent: bool = False
) -> ApiError:
    """What another status than 200 is to our client; `longest` is the upstream's context.

    `may_be_absent`: not every upstream has such an endpoint, or a model for it.
    """
    try:
        content = await response.aread()
    except httpx2.HTTPError:
        content = b""
    message, status = error_text(content), response.status_code
    if status in CLIENT_ERRORS and (exceeded := _context_exceeded(message, longest, path)):
        return exceeded
    if status == 413 and message:
        return ApiError(413, message, code="request_too_large")
    if status in CLIENT_ERRORS and message:
        return ApiError(400, message, param=_param(content), code="invalid_value")
    if status == 429:
        return ApiError(
            429,
            "The engine has too much to do; try again later.",
            kind="rate_limit_error",
            code="queue_full",
            headers={"retry-after": response.headers.get("retry-after", "1")},
        )
    if may_be_absent and status in ABSENT:
        return ApiError(404, "The model that is served here has nothing of this.", code="not_found")
    # what it says may name paths and programs, which are not for our clients
    logger.error("the upstream answered with status %d: %s", status, message[:500])
    return failed(503 if status == 503 else 502, "The engine failed to answer.")
