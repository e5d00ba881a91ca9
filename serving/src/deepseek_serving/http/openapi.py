"""The OpenAPI document: what FastAPI knows, with our errors, and keys where they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

import deepseek_serving
from deepseek_serving.http.routes import needs_key


class ErrorDetail(BaseModel):
    """The error object of OpenAI's API."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every response that is an error."""

    error: ErrorDetail


def error_response(description: str) -> dict[str, Any]:
    return {"description": description, "model": ErrorBody}


Responses = dict[int | str, dict[str, Any]]

ERRORS: Responses = {
    401: error_response("No key, or one that is not in force"),
    403: error_response("A key without the scope, or a client certificate that is not allowed"),
    404: error_response("Another model than this service has"),
    429: error_response("The key's rate or quota is used up; retry-after says for how long"),
}
REPLIES: Responses = {
    200: {
        "description": "In one piece, or as server-sent events where `stream` is true",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    },
    400: error_response("A parameter that is wrong or cannot be heeded; `param` names it"),
    **ERRORS,
    408: error_response("The request body came too slowly"),
    413: error_response("The request body is too large"),
    425: error_response("The service is stopping and has not taken the request; send it again"),
    500: error_response("The engine could not answer this request"),
    503: error_response("The service is stopping or has failed"),
    504: error_response("The answer took longer than a request may"),
}
EMBEDDINGS: Responses = {
    200: {"description": "One vector per text", "content": {"application/json": {"schema": {}}}},
    400: REPLIES[400],
    **ERRORS,
    408: REPLIES[408],
    413: REPLIES[413],
}


class Tokenized(BaseModel):
    """The tokens of a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(BaseModel):
    """The text of tokens."""

    prompt: str


TOKENIZED: Responses = {
    **EMBEDDINGS,
    200: {"description": "The tokens", "model": Tokenized},
}
DETOKENIZED: Responses = {
    **EMBEDDINGS,
    200: {"description": "The text", "model": Detokenized},
}
SCORES: Responses = {
    **EMBEDDINGS,
    200: {"description": "A score for each", "content": {"application/json": {"schema": {}}}},
}
HEALTH: Responses = {
    200: {"description": "At least one worker accepts requests"},
    503: error_response("None does"),
}


def _name_models(
    document: Mapping[str, Any], models: Mapping[str, Sequence[str]], own: Sequence[str]
) -> None:
    """Say in every body of an endpoint, and of every path with a name, which models there are."""
    schemas = document["components"]["schemas"]
    for path, names in models.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]
        schema = content["application/json"]["schema"]
        for one in schema.get("anyOf", [schema]):
            model = schemas[one["$ref"].rpartition("/")[2]]["properties"]["model"]
            # where it may be left out it may be empty
            empty = [""] if "default" in model else []
            model["enum"] = [*names, *empty]
    for parameter in document["paths"]["/v1/models/{name}"]["get"]["parameters"]:
        parameter["schema"]["enum"] = list(own)


def publish(
    app: FastAPI, *, has_keys: bool, models: Mapping[str, Sequence[str]], own: Sequence[str]
) -> dict[str, Any]:
    """Have the application describe itself, once all its routes are there: the document.

    `models`: what each endpoint takes as a model; `own`: all that there are.
    """
    document = get_openapi(
        title="onprem.deepseek inference service",
        version=deepseek_serving.__version__,
        description="The OpenAI API, as far as this service has it.",
        routes=app.routes,
    )
    _name_models(document, models, own)
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            # wrong requests are answered with 400, in OpenAI's shape
            if operation["responses"].pop("422", None) and "400" not in operation["responses"]:
                operation["responses"]["400"] = {
                    "description": "A wrong request",
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}
                    },
                }
            if has_keys and needs_key(path):
                operation["security"] = [{"key": []}]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    if has_keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return document

    return document
