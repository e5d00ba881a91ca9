"""How the prompt of a chat request is made: what its template is told, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from deepseek_serving.http.schema.body import Body, only_at, refuse
from deepseek_serving.text.prompt_options import PromptOptions
from deepseek_serving.text.thinking import EFFORT, SWITCHES

MOST_VARIABLES = 32
MOST_DOCUMENTS = 1024
MOST_WITHIN = 1024
MOST_CHARACTERS = 65_536
MOST_DEPTH = 16
LONGEST_NAME = 64
THINKING_TYPES = {"enabled": True, "disabled": False}
# What a template gets from elsewhere: messages, parameters of their own, tokens, and functions.
RESERVED = {
    "messages": "the messages are given by 'messages'",
    "tools": "tools are given by 'tools'",
    "documents": "documents are given by 'documents'",
    "add_generation_prompt": "it is a parameter of the request",
    "continue_final_message": "it is a parameter of the request",
    "chat_template": "the template is the model's",
    "tokenize": "a prompt is always tokenised",
    "raise_exception": "it is a function of templates",
    "strftime_now": "it is a function of templates",
}

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def _bounded(value: object) -> None:
    """Refuses what is larger or deeper than any variable needs to be."""
    parts = characters = 0
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        parts += 1
        if isinstance(item, str):
            characters += len(item)
        elif isinstance(item, dict | list):
            if depth > MOST_DEPTH:
                refuse(f"'{{path}}' has more than {MOST_DEPTH} levels.")
            waiting += [(key, depth + 1) for key in item if isinstance(item, dict)]
            inner = item.values() if isinstance(item, dict) else item
            waiting += [(one, depth + 1) for one in inner]
        if parts > MOST_WITHIN or characters > MOST_CHARACTERS:
            refuse(
                f"'{{path}}' has more than {MOST_WITHIN} values or {MOST_CHARACTERS} characters."
            )


def _variables(value: object) -> object:
    """Before any is looked at: of a dictionary, unlike of a list, every error is collected."""
    if not isinstance(value, dict):
        return value
    if len(value) > MOST_VARIABLES:
        refuse(
            f"Invalid '{{path}}': expected at most {MOST_VARIABLES} entries, but got {len(value)}."
        )
    for name, given in value.items():
        if name in RESERVED or name.endswith("_token"):
            why = RESERVED.get(name, "tokens are the tokenizer's")
            refuse("'{path}' cannot be given to the chat template: {why}.", name, why=why)
        if len(name) > LONGEST_NAME or not name.isidentifier() or name.startswith("_"):
            refuse("'{path}' has {name}, which is no name of a variable.", name=repr(name[:64]))
        if name in SWITCHES and not isinstance(given, bool | None):
            refuse("Invalid type for '{path}': expected a boolean.", name)
        if name == EFFORT and not isinstance(given, str | None):
            refuse("Invalid type for '{path}': expected a string.", name)
    _bounded(value)
    return value


# the same for the document, as far as it can be said there
VARIABLES = {
    "anyOf": [
        {
            "type": "object",
            "maxProperties": MOST_VARIABLES,
            "propertyNames": {
                "pattern": f"^[a-z][a-z0-9_]{{0,{LONGEST_NAME - 1}}}$",
                "not": {"anyOf": [{"enum": sorted(RESERVED)}, {"pattern": "_token$"}]},
            },
            "properties": {
                **{name: {"type": ["boolean", "null"]} for name in sorted(SWITCHES)},
                EFFORT: {"type": ["string", "null"]},
            },
        },
        {"type": "null"},
    ]
}


def _switch(value: object) -> object:
    """DeepSeek's switch is an object with a type."""
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if len(value) != 1 or not isinstance(kind, str) or kind not in THINKING_TYPES:
        refuse(
            "Invalid value for '{path}': expected a boolean, or an object whose type is 'enabled' "
            "or 'disabled'."
        )
    return THINKING_TYPES[kind]


Switch = Annotated[
    bool,
    BeforeValidator(_switch),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean"},
                {
                    "type": "object",
                    "properties": {"type": {"enum": list(THINKING_TYPES)}},
                    "required": ["type"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class PromptRequest(Body):
    """The part of a chat request that is about its prompt."""

    chat_template_kwargs: Annotated[
        dict[str, Any] | None, BeforeValidator(_variables), WithJsonSchema(VARIABLES)
    ] = None
    enable_thinking: bool | None = None
    thinking: Switch | None = None
    reasoning_effort: Effort | None = None
    documents: (
        Annotated[list[dict[str, Any]], Field(max_length=MOST_DOCUMENTS, fail_fast=True)] | None
    ) = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    # would change the prompt if they were heeded
    chat_template: Annotated[Any, only_at()] = None

    @model_validator(mode="after")
    def ends_one_way(self) -> PromptRequest:
        if self.continue_final_message and self.add_generation_prompt:
            refuse(
                "continue_final_message and add_generation_prompt exclude each other: a reply "
                "goes on with the final message, or begins after it.",
                "continue_final_message",
            )
        return self

    def prompt_options(self, *, prefix: bool) -> PromptOptions:
        """`prefix`: the final message asks to be continued."""
        variables = {
            name: value
            for name, value in (self.chat_template_kwargs or {}).items()
            if value is not None
        }
        thinks, by = self._thinks(variables)
        effort = variables.pop(EFFORT, self.reasoning_effort)
        continues = bool(self.continue_final_message or prefix)
        return PromptOptions(
            variables={k: v for k, v in variables.items() if k not in SWITCHES},
            documents=self.documents or None,
            thinks=thinks,
            thinks_by=by,
            effort=effort,
            begins_reply=self.add_generation_prompt is not False and not continues,
            continues=continues,
        )

    def _thinks(self, variables: Mapping[str, Any]) -> tuple[bool | None, str]:
        """Whether thoughts are asked for, and by which parameter; the nearest to the template."""
        if given := SWITCHES & variables.keys():
            name = min(given)
            return variables[name], f"chat_template_kwargs.{name}"
        if self.enable_thinking is not None:
            return self.enable_thinking, "enable_thinking"
        return self.thinking, "thinking" if self.thinking is not None else ""
