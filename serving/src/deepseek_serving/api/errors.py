"""Errors in the shape that OpenAI's clients understand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


def _encodable(text: str) -> str:
    """JSON may carry half a surrogate pair, as a key for instance; UTF-8 may not."""
    return text.encode("utf-8", "replace").decode("utf-8")


class ApiError(Exception):
    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(_encodable(message))
        self.status = status
        self.kind = kind
        self.param = param and _encodable(param)
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


def from_validation(errors: Sequence[Any]) -> ApiError:
    """The first of pydantic's complaints, as OpenAI would put it."""
    first = errors[0]
    path = [str(part) for part in first["loc"] if part != "body"]
    param = ".".join(path) or None
    if first["type"] == "extra_forbidden":
        return ApiError(
            400,
            f"Unrecognized request argument supplied: {param}",
            param=param,
            code="unknown_parameter",
        )
    if first["type"] == "json_invalid":
        return ApiError(400, "The request body is not valid JSON.", code="invalid_json")
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(
        400, f"{param or 'The request body'}: {message}", param=param, code="invalid_value"
    )


def install(app: FastAPI) -> None:
    """Give every error, the framework's included, OpenAI's shape."""

    async def api_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def validation_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return from_validation(error.errors()).response()

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        headers = dict(error.headers) if error.headers else None
        return ApiError(error.status_code, message, headers=headers).response()

    async def unexpected(_request: Request, error: Exception) -> JSONResponse:
        return failed().response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)
