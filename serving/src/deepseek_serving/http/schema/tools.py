"""Tools that a model may call."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from deepseek_serving.http.schema.bounds import FunctionName, Name


class Function(BaseModel):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    """The name of a function."""

    name: Name


class NamedTool(BaseModel):
    """The tool that the model must call."""

    type: Literal["function"]
    function: NamedFunction
