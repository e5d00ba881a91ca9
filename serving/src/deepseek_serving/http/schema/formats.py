"""What an answer must look like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from deepseek_serving.http.schema.body import Body
from deepseek_serving.http.schema.bounds import Name


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


class ObjectFormat(Body):
    """An answer that is any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Body):
    """An answer that a JSON schema accepts."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]
