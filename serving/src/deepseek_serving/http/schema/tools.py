"""Tools that a model may call."""

from __future__ import annotations

from typing import Any, Literal

from deepseek_serving.http.schema.body import Body
from deepseek_serving.http.schema.bounds import FunctionName, Name


class Function(Body):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name of a function."""

    name: Name


class NamedTool(Body):
    """The tool that the model must call."""

    type: Literal["function"]
    function: NamedFunction
