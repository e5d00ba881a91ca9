"""Tools that a model may call."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from deepseek_serving.generation.request import Tools
from deepseek_serving.http.schema.body import Body
from deepseek_serving.http.schema.bounds import MOST_CALLS, FunctionName, Name


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

    @property
    def names(self) -> list[str]:
        return [self.function.name]


class Allowed(Body):
    """The tools that the model may call, or must call one of."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MOST_CALLS, fail_fast=True)]


class AllowedTools(Body):
    """Some of the tools; the others are not shown to the model."""

    type: Literal["allowed_tools"]
    allowed_tools: Allowed

    @property
    def names(self) -> list[str]:
        return [tool.function.name for tool in self.allowed_tools.tools]


ToolChoice = (
    Literal["none", "auto", "required"]
    | Annotated[NamedTool | AllowedTools, Field(discriminator="type")]
)


def unknown_tool(tools: list[Tool], choice: ToolChoice | None) -> str | None:
    """What a choice asks for that is not among the tools."""
    names = {tool.function.name for tool in tools}
    if isinstance(choice, (NamedTool, AllowedTools)):
        return next((name for name in choice.names if name not in names), None)
    return None


def called_tools(tools: list[Tool], choice: ToolChoice | None, *, parallel: bool) -> Tools | None:
    """The tools that the model may call, if there are any."""
    functions = [tool.function.model_dump(exclude_none=True) for tool in tools]
    if isinstance(choice, AllowedTools):
        functions = [function for function in functions if function["name"] in choice.names]
        choice = choice.allowed_tools.mode
    if not functions or choice == "none":
        return None
    force: tuple[str, ...] = ()
    if isinstance(choice, NamedTool):
        force = tuple(choice.names)
    elif choice == "required":
        force = tuple(function["name"] for function in functions)
    return Tools(functions, force, parallel)
