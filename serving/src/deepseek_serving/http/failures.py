"""What a client hears of an answer that cannot be begun, or is not completed."""

from __future__ import annotations

from deepseek_serving.backends.errors import (
    GenerationFailedError,
    GenerationFaultError,
    GenerationRefusedError,
    GenerationReturnedError,
    GenerationTimeoutError,
)
from deepseek_serving.http.errors import ApiError


def unavailable() -> ApiError:
    return ApiError(503, "The service is stopping or has failed.", kind="server_error")


def not_taken() -> ApiError:
    """What a service that stops has not begun: the gateway asks another one.

    Nothing else is answered with this status (Too Early, RFC 8470), so that it can be told from
    what a service had already taken.
    """
    return ApiError(
        425,
        "The service is stopping and has not taken the request; send it again.",
        kind="server_error",
        code="not_taken",
        headers={"retry-after": "1"},
    )


def failure(error: GenerationFailedError) -> ApiError:
    if isinstance(error, GenerationTimeoutError):
        return ApiError(
            504,
            "The answer was not complete in the time that a request may take.",
            kind="server_error",
            code="request_timeout",
        )
    if isinstance(error, GenerationReturnedError):
        return not_taken()
    if isinstance(error, GenerationFaultError):
        return ApiError(
            500,
            "The engine could not answer this request. It goes on with others; the service's log "
            "says why.",
            kind="server_error",
            code="generation_failed",
        )
    if isinstance(error, GenerationRefusedError):
        return ApiError(
            400,
            "The answer cannot go on: what it must look like is more than can be enforced. "
            "Ask for a simpler schema.",
            param="response_format",
            code="invalid_json_schema",
        )
    return unavailable()
