"""What is wrong with a body, in OpenAI's terms: where, what was given, and what is accepted.

A validator complains of every branch of a union, and names branches as its code does. Of all its
complaints one is reported: the first, or where a union was meant, that of the branch which fits
best, with what the others would have taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from deepseek_serving.http.error_codes import ErrorCode

Path = tuple[str | int, ...]

# of a text that was given, a message repeats no more than this
SHOWN = 64
WANTED: Mapping[str, str] = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


class RefusedError(Exception):
    """A body is not what it should be, in OpenAI's terms."""

    def __init__(
        self, message: str, param: str | None = None, code: ErrorCode | None = None
    ) -> None:
        # all of them, so that it can be pickled
        super().__init__(message, param, code)
        self.message = message
        self.param = param
        self.code = code


def unknown(param: str) -> RefusedError:
    return RefusedError(
        f"Unrecognized request argument supplied: {param}", param, "unknown_parameter"
    )


def kind(value: object) -> str:
    """What a value of JSON is called."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "an integer", float: "a number", list: "an array"}
    return names.get(type(value), "an object")


def written(path: Path) -> str:
    """A path as OpenAI writes it: messages[0].content."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def _shown(value: object) -> str:
    """A value in a message; what is long is described."""
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN else f"a string of {len(value)} characters"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 10**SHOWN else str(value)
    if isinstance(value, int) and abs(value) < 10**SHOWN:
        return str(value)
    return kind(value)


@dataclass(frozen=True)
class _Complaint:
    """One of pydantic's, with where it is in the body, and what is there."""

    error: Mapping[str, Any]
    path: Path
    value: object

    @classmethod
    def of(cls, error: Mapping[str, Any], body: object) -> _Complaint:
        """Of where the validator was, what is no member of the body names a branch of a union."""
        path: list[str | int] = []
        value = body
        places: Sequence[str | int] = error["loc"]
        for number, place in enumerate(places):
            is_member = isinstance(value, dict) and place in value
            is_item = isinstance(value, list) and isinstance(place, int) and place < len(value)
            if is_member or is_item:
                value = value[place]  # type: ignore[index]
                path.append(place)
            elif error["type"] == "missing" and number == len(places) - 1:
                path.append(place)
        return cls(error, tuple(path), value)

    @property
    def type(self) -> str:
        return str(self.error["type"])

    @property
    def context(self) -> Mapping[str, Any]:
        return self.error.get("ctx") or {}

    @property
    def wanted(self) -> str | None:
        """What the validator would have taken here; None if it complains of something else."""
        if self.type == "literal_error":
            return str(self.context["expected"])
        return WANTED.get(self.type)


def _best(complaints: Sequence[_Complaint]) -> list[_Complaint]:
    """Those of the place that the first one is about, or of the place furthest inside it."""
    first = complaints[0]
    depth = len(first.path)
    inside = [found for found in complaints if found.path[:depth] == first.path]
    furthest = max(inside, key=lambda found: len(found.path))
    return [found for found in inside if found.path == furthest.path]


def _named(path: str) -> str:
    return f"'{path}'" if path else "the request body"


def _of_type(found: Sequence[_Complaint], path: str) -> RefusedError:
    wanted = list(dict.fromkeys(each.wanted for each in found if each.wanted))
    choice = " or ".join([", ".join(wanted[:-1]), wanted[-1]] if len(wanted) > 1 else wanted)
    value = found[0].value
    has_values = any(each.type == "literal_error" for each in found)
    given = _shown(value) if has_values else kind(value)
    what = "value" if has_values and isinstance(value, str) else "type"
    message = f"Invalid {what} for {_named(path)}: expected {choice}, but got {given} instead."
    return RefusedError(message, path or None, "invalid_value")


def _own(found: _Complaint) -> RefusedError:
    """What one of our own validators says; see schema.body.refused."""
    context = found.context
    place = (*found.path, context["param"]) if context["param"] else found.path
    if context["code"] == "unknown_parameter":
        return unknown(written(place))
    names = {"path": written(place), "within": written(place[:-1]), **context.get("shown", {})}
    message = str(context["message"])
    for name, text in names.items():
        message = message.replace(f"{{{name}}}", text)
    return RefusedError(message, written(place) or None, context["code"])


def _tag(found: _Complaint) -> RefusedError:
    """The member that says which of several objects this is has another value, or is not there."""
    context = found.context
    member = str(context["discriminator"]).strip("'")
    param = written((*found.path, member))
    if found.type == "union_tag_not_found":
        return _missing(param)
    message = (
        f"Invalid value for '{param}': expected one of {context['expected_tags']}, but got "
        f"{_shown(context['tag'])} instead."
    )
    return RefusedError(message, param, "invalid_value")


def _missing(param: str) -> RefusedError:
    return RefusedError(f"Missing required parameter: '{param}'.", param, "invalid_value")


# what is accepted, and what was given
Bound = Callable[[Mapping[str, Any], Any], str]
BOUNDS: Mapping[str, Bound] = {
    "greater_than_equal": lambda c, v: f"at least {_shown(c['ge'])}, but got {_shown(v)}",
    "greater_than": lambda c, v: f"more than {_shown(c['gt'])}, but got {_shown(v)}",
    "less_than_equal": lambda c, v: f"at most {_shown(c['le'])}, but got {_shown(v)}",
    "less_than": lambda c, v: f"less than {_shown(c['lt'])}, but got {_shown(v)}",
    "finite_number": lambda c, v: "a finite number, but got one that is not",
    "too_long": lambda c, v: f"at most {c['max_length']} items, but got {len(v)}",
    "too_short": lambda c, v: f"at least {c['min_length']} item, but got {len(v)}",
    "string_too_long": lambda c, v: f"at most {c['max_length']} characters, but got {len(v)}",
    "string_too_short": lambda c, v: f"at least {c['min_length']} character, but got {len(v)}",
    "string_pattern_mismatch": lambda c, v: (
        f"a string that matches {c['pattern']}, but got {_shown(v)}"
    ),
}


def explained(error: ValidationError, body: object) -> RefusedError:
    """What to say of a body that the validator refused."""
    errors = error.errors(include_url=False, include_input=False)
    found = _best([_Complaint.of(each, body) for each in errors])
    first = next((each for each in found if each.wanted is None), found[0])
    path = written(first.path)
    if first.type == "extra_forbidden":
        return unknown(path)
    if first.type == "refused":
        return _own(first)
    if first.type == "missing":
        return _missing(path)
    if first.type.startswith("union_tag"):
        return _tag(first)
    if first.type in BOUNDS:
        expected = BOUNDS[first.type](first.context, first.value)
        message = f"Invalid {_named(path)}: expected {expected}."
        return RefusedError(message, path or None, "invalid_value")
    if first.wanted:
        return _of_type(found, path)
    message = str(first.error["msg"]).removeprefix("Value error, ")
    return RefusedError(f"{path or 'The request body'}: {message}", path or None, "invalid_value")
