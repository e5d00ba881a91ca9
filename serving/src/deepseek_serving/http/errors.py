"""Errors in the shape that OpenAI's clients understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from deepseek_serving.http.error_codes import ErrorCode

# of what a client sent, a refusal repeats no more than this
LONGEST_MESSAGE = 2000
LONGEST_PARAM = 256
# of what the framework itself refuses
CODES: Mapping[int, ErrorCode] = {404: "not_found", 405: "method_not_allowed"}


def _encodable(text: str, most: int) -> str:
    """Cut; and JSON may carry half a surrogate pair, as a key for instance, which UTF-8 may not."""
    shown = text if len(text) <= most else f"{text[:most]}..."
    return shown.encode("utf-8", "replace").decode("utf-8")


class ApiError(Exception):
    """An error in OpenAI's shape, with its HTTP status and headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: ErrorCode | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(_encodable(message, LONGEST_MESSAGE))
        self.status = status
        self.kind = kind
        self.param = param and _encodable(param, LONGEST_PARAM)
        self.code = code
        self.headers = headers

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": str(self),
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=self.headers)


def failed() -> ApiError:
    """What clients hear of an error that nobody foresaw."""
    return ApiError(500, "The service failed.", kind="server_error")


def install(app: FastAPI) -> None:
    """Give every error, the framework's included, OpenAI's shape."""

    async def api_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.scope['path'][:LONGEST_PARAM]}: {error.detail}"
        headers = dict(error.headers) if error.headers else None
        code = CODES.get(error.status_code)
        return ApiError(error.status_code, message, code=code, headers=headers).response()

    async def unexpected(_request: Request, error: Exception) -> JSONResponse:
        return failed().response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)
