"""What an upstream's refusals and failures are to our clients."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from deepseek_serving.backends.errors import too_long
from deepseek_serving.backends.upstream import error_text
from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.schema.body import Body
from deepseek_serving.http.schema.chat import ChatRequest
from deepseek_serving.http.schema.completions import CompletionRequest
from deepseek_serving.http.upstream_parameters import EXTRAS

logger = logging.getLogger(__name__)

# What our client is to blame for, and may put right.
CLIENT_ERRORS = frozenset({400, 413, 422})
# a server's ways to say that it has no such endpoint, or that its model cannot do this
ABSENT = frozenset({404, 405, 501})
# How vLLM, SGLang and llama.cpp say that a prompt is too long, and for what.
CONTEXT = re.compile(r"context (?:length|size|window)|maximum allowed length", re.IGNORECASE)
LENGTH = re.compile(r"context length (?:is |of |\()(?:only )?([0-9]+)")
TOO_LONG = too_long("", "").partition(" is ")[0]
SCHEMAS: Mapping[str, type[Body]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}
NAMES = {
    path: frozenset(schema.model_fields) | frozenset(EXTRAS[path].model_fields)
    for path, schema in SCHEMAS.items()
}
PROMPTS = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
    "/v1/rerank": "documents",
    "/v1/score": "text_2",
}
MOST_PARAM = 64
# How vLLM begins a sentence about a parameter, where it does not name it otherwise.
SUBJECT = re.compile(r"[`'\"]?(\w+)[`'\"]? (?:must|cannot|is set|are not|does not)\b")
# What it says of a format that it cannot enforce, and of a value of the wrong kind.
UNENFORCEABLE = re.compile(r"grammar|json.?schema|regex|structural.?tag", re.IGNORECASE)
WRONG_KIND = re.compile(r"'loc': 'body\.([^']+)', 'msg': (?:'([^']*)'|\"([^\"]*)\")")


def failed(status: int, message: str) -> ApiError:
    """The engine has, and not the client."""
    headers = {"retry-after": "5"} if status == 503 else None
    return ApiError(
        status, message, kind="server_error", code="engine_unavailable", headers=headers
    )


def _named(error: Mapping[str, Any], message: str, names: Collection[str]) -> str | None:
    """Which parameter the upstream complains of: as it says, or as its sentence begins."""
    named = error.get("param")
    if isinstance(named, str) and 0 < len(named) <= MOST_PARAM:
        return named.removeprefix("body.")
    subject = SUBJECT.match(message)
    return subject[1] if subject and subject[1] in names else None


def _refused(content: bytes, message: str, names: Collection[str], form: str | None) -> ApiError:
    """`names`: the parameters there are; `form`: the one that says what the answer must look like.

    Of a list of what is wrong, the first is told.
    """
    wrong = WRONG_KIND.search(message)
    if wrong:
        where, what = wrong[1], wrong[2] or wrong[3] or "Invalid value"
        return ApiError(400, f"'{where}': {what}.", param=where, code="invalid_value")
    body = json.loads(content)
    error = body.get("error") if isinstance(body, Mapping) else None
    param = _named(error if isinstance(error, Mapping) else {}, message, names)
    if param is None and form is not None and UNENFORCEABLE.search(message):
        return ApiError(400, message, param=form, code="invalid_json_schema")
    return ApiError(400, message, param=param, code="invalid_value")


def _context_exceeded(message: str, longest: int | None, path: str) -> ApiError | None:
    """What servers say in many ways, as clients know it; None for another message."""
    if not CONTEXT.search(message):
        return None
    if not message.startswith(TOO_LONG):
        message = too_long(longest or next(iter(LENGTH.findall(message)), "fewer"), message)
    return ApiError(400, message, param=PROMPTS.get(path), code="context_length_exceeded")


@dataclass(frozen=True)
class Told:
    """An upstream's status and words for what it does not answer."""

    status: int
    content: bytes
    retry_after: str = "1"

    @classmethod
    async def of(cls, response: httpx2.Response) -> Told:
        try:
            content = await response.aread()
        except httpx2.HTTPError:
            content = b""
        return cls(response.status_code, content, response.headers.get("retry-after", "1"))


def told_in_stream(data: str, error: object) -> Told:
    """The same in a stream, whose status was another: vLLM begins a stream before it looks."""
    code = error.get("code") if isinstance(error, Mapping) else None
    return Told(code if isinstance(code, int) else 500, data.encode())


def refusal(
    told: Told,
    longest: int | None,
    path: str,
    *,
    form: str | None = None,
    may_be_absent: bool = False,
) -> ApiError:
    """What another status than 200 is to our client; `longest` is the upstream's context.

    `form`: the parameter that says what the answer must look like, if there is one.
    `may_be_absent`: not every upstream has such an endpoint, or a model for it.
    """
    message, status = error_text(told.content), told.status
    if status in CLIENT_ERRORS and (exceeded := _context_exceeded(message, longest, path)):
        return exceeded
    if status == 413 and message:
        return ApiError(413, message, code="request_too_large")
    if status in CLIENT_ERRORS and message:
        return _refused(told.content, message, NAMES.get(path, ()), form)
    if status == 429:
        return ApiError(
            429,
            "The engine has too much to do; try again later.",
            kind="rate_limit_error",
            code="queue_full",
            headers={"retry-after": told.retry_after},
        )
    if may_be_absent and status in ABSENT:
        return ApiError(404, "The model that is served here has nothing of this.", code="not_found")
    # what it says may name paths and programs, which are not for our clients
    logger.error("the upstream answered with status %d: %s", status, message[:500])
    return failed(503 if status == 503 else 502, "The engine failed to answer.")
