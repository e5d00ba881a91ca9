"""What an answer must look like: OpenAI's `response_format`, and vLLM's names for more."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from deepseek_serving.generation.request import Format
from deepseek_serving.http.json_bounds import MOST_CONTAINERS, MOST_VALUES, Shape, shape
from deepseek_serving.http.schema.body import Body, refuse
from deepseek_serving.http.schema.bounds import Name

MOST_CHOICES, MOST_TAGS = 1024, 128
OBJECT = {"type": "object"}


def _parsed(value: object) -> object:
    """A schema may be a text, too, for vLLM."""
    if not isinstance(value, str):
        return value
    most = Shape(MOST_CONTAINERS, MOST_VALUES)
    found = shape(value.encode("utf-8", "replace"), most)
    if found is None or found.containers > most.containers or found.values > most.values:
        refuse("'{path}' has more values than any schema needs.")
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        refuse("'{path}' is a text that is not JSON.")


Kind = Literal["json", "regex", "choice", "grammar"]
SchemaText = Annotated[dict[str, Any], BeforeValidator(_parsed)]
Pattern = Annotated[str, Field(min_length=1, max_length=2**16)]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=2**16)]],
    Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True),
]


class JsonSchema(Body):
    """A JSON schema and its name."""

    model_config = ConfigDict(populate_by_name=True)

    name: Name | None = None
    description: str | None = None
    strict: bool | None = None
    # `schema` is a method of pydantic's models
    wanted: dict[str, Any] = Field(alias="schema")


class TextFormat(Body):
    """An answer in free text."""

    type: Literal["text"]

    def asked(self, _parameter: str) -> Format | None:
        return None


class ObjectFormat(Body):
    """An answer that is a JSON object, and one that the schema accepts if there is one."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["json_object"]
    wanted: dict[str, Any] | None = Field(default=None, alias="schema")

    def asked(self, parameter: str) -> Format | None:
        return Format("json", OBJECT if self.wanted is None else self.wanted, parameter)


class SchemaFormat(Body):
    """An answer that a JSON schema accepts."""

    type: Literal["json_schema"]
    json_schema: JsonSchema

    def asked(self, parameter: str) -> Format | None:
        return Format("json", self.json_schema.wanted, parameter)


class Structure(Body):
    """A part of free text that a schema holds, between two fixed texts."""

    model_config = ConfigDict(populate_by_name=True)

    begin: Annotated[str, Field(min_length=1, max_length=1024)]
    wanted: dict[str, Any] = Field(alias="schema")
    end: Annotated[str, Field(max_length=1024)]


class StructuralTag(Body):
    """Free text in which certain parts are held to schemas: each begins with one of `triggers`."""

    type: Literal["structural_tag"]
    structures: Annotated[list[Structure], Field(min_length=1, max_length=MOST_TAGS)]
    triggers: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1024)]],
        Field(min_length=1, max_length=MOST_TAGS),
    ]

    @model_validator(mode="after")
    def begin_with_triggers(self) -> StructuralTag:
        begins = [structure.begin for structure in self.structures]
        if not all(any(begin.startswith(t) for t in self.triggers) for begin in begins):
            refuse("the begin of a structure must begin with one of the triggers")
        if not all(any(begin.startswith(t) for begin in begins) for t in self.triggers):
            refuse("a trigger begins none of the structures", "triggers")
        return self

    def asked(self, parameter: str) -> Format | None:
        tags = [(part.begin, part.wanted, part.end) for part in self.structures]
        return Format("tags", {"tags": tags, "triggers": self.triggers}, parameter)


ResponseFormat = Annotated[
    TextFormat | ObjectFormat | SchemaFormat | StructuralTag, Field(discriminator="type")
]


class StructuredOutputs(Body):
    """VLLM's parameter of that name: one of its members says what an answer must look like."""

    model_config = ConfigDict(populate_by_name=True)

    # `json` is a method of pydantic's models
    wanted: SchemaText | None = Field(default=None, alias="json")
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Pattern | None = None
    json_object: bool | None = None
    structural_tag: Annotated[StructuralTag, BeforeValidator(_parsed)] | None = None

    def formats(self, parameter: str) -> list[Format]:
        found = _formats(
            ("json", parameter, self.wanted),
            ("regex", parameter, self.regex),
            ("choice", parameter, self.choice),
            ("grammar", parameter, self.grammar),
        )
        if self.json_object:
            found.append(Format("json", OBJECT, parameter))
        tagged = self.structural_tag and self.structural_tag.asked(parameter)
        return [*found, tagged] if tagged else found


def _formats(*given: tuple[Kind, str, Any]) -> list[Format]:
    """Those of the kinds, parameters and contents that have a content."""
    return [
        Format(kind, content, parameter)
        for kind, parameter, content in given
        if content is not None
    ]


class Formatted(Body):
    """All parameters of a request that say what its answer must look like; one of them may."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    # vLLM's names before
    guided_json: SchemaText | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Pattern | None = None

    @property
    def formats(self) -> list[Format]:
        # nearly always none of them is given
        if Formatted.model_fields.keys().isdisjoint(self.model_fields_set):
            return []
        found = _formats(
            ("json", "guided_json", self.guided_json),
            ("regex", "guided_regex", self.guided_regex),
            ("choice", "guided_choice", self.guided_choice),
            ("grammar", "guided_grammar", self.guided_grammar),
        )
        if self.structured_outputs is not None:
            found += self.structured_outputs.formats("structured_outputs")
        asked = self.response_format and self.response_format.asked("response_format")
        return [*found, asked] if asked else found

    @property
    def answer_format(self) -> Format | None:
        """None if the answer is free."""
        found = self.formats
        return found[0] if found else None

    @model_validator(mode="after")
    def one_format(self) -> Formatted:
        given = self.structured_outputs
        if given is not None and not given.formats(""):
            refuse(
                "structured_outputs says nothing of what the answer must look like",
                "structured_outputs",
            )
        found = self.formats
        if len(found) > 1:
            names = " and ".join(sorted({one.parameter for one in found}))
            refuse(
                "an answer can be held to one format, and several are asked for, by {names}",
                found[-1].parameter,
                names=names,
            )
        return self
