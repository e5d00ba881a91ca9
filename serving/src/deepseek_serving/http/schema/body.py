"""What every object in a request has in common, and how a schema says that something is wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from deepseek_serving.http.error_codes import ErrorCode

UNSUPPORTED: ErrorCode = "unsupported_value"
# an error for each of them would be made
MOST_MEMBERS = 128


def refuse(
    message: str, param: str = "", code: ErrorCode = "invalid_value", **shown: str
) -> NoReturn:
    """End a validation: the message, and the member that it is about if not its own value.

    `{path}` in the message stands for where the value is in the body, `{within}` for what holds
    it, and other names for what `shown` has: what a client sent belongs there.
    """
    raise PydanticCustomError(
        "refused", "refused", {"message": message, "param": param, "code": code, "shown": shown}
    )


class Body(BaseModel):
    """An object of a request: nothing is converted, nothing unknown is taken, null is absent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        if len(value) > MOST_MEMBERS:
            known = {field.alias or name for name, field in cls.model_fields.items()}
            unknown = next(str(name) for name in value if name not in known)
            refuse("", unknown, "unknown_parameter")
        if None in value.values():
            return {name: member for name, member in value.items() if member is not None}
        return value


def _integral(value: object) -> object:
    """JSON has one kind of numbers: 5.0 is 5, and some languages write no other."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# for Annotated[int, Field(…), INTEGER]
INTEGER = BeforeValidator(_integral)


def _all_integral(value: object) -> object:
    if isinstance(value, list) and float in set(map(type, value)):
        return [_integral(item) for item in value]
    return value


# the same for a long list, at little cost where all are integers already
INTEGERS = BeforeValidator(_all_integral)


def _same(first: object, second: object) -> bool:
    return first == second and isinstance(first, bool) == isinstance(second, bool)


# by identity: typing keeps one annotation for equal ones, and to Python True equals 1
@dataclass(frozen=True, eq=False)
class OnlyAt:
    """For a parameter that is accepted only at values that ask for nothing, or not at all."""

    accepted: tuple[Any, ...] = ()

    def check(self, value: object) -> object:
        if any(_same(value, accepted) for accepted in self.accepted):
            return value
        if not self.accepted:
            refuse("The parameter '{path}' is not supported here.", code=UNSUPPORTED)
        refuse(
            "The parameter '{path}' is not supported here, except as {accepted}.",
            code=UNSUPPORTED,
            accepted=" or ".join(json.dumps(accepted) for accepted in self.accepted),
        )

    def __get_pydantic_core_schema__(
        self, _source: object, _handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, _schema: core_schema.CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"enum": [*self.accepted, None]}


def only_at(*accepted: object) -> OnlyAt:
    """The annotation of a parameter that is accepted as null, and as one of these."""
    return OnlyAt(accepted)
