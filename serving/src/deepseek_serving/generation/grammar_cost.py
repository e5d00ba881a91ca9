"""What a schema may ask for, looked at before anything is compiled.

Each limit stands for a way in which a short schema becomes a large automaton. They refuse early
and say which part is meant; the bound itself is the trial (`grammar_trial`), since what a grammar
costs cannot be told from its text in general.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeGuard

# objects and lists in each other: an object's property is two deeper
DEEPEST = 64
MOST_NODES = 20_000
# keys and values; what only explains is not counted
MOST_CHARACTERS = 120_000
MOST_PROPERTIES = 2_000
MOST_VALUES = 5_000
# of an object: each is compared with each
MOST_PATTERN_PROPERTIES = 32
# places of a pattern, its repetitions written out; of all patterns together
LARGEST_PATTERN = 5_000
LARGEST_PATTERNS = 20_000
# states that divide a number; of all together
LARGEST_DIVISOR = 10_000
LARGEST_DIVISORS = 20_000
# patterns that one string must satisfy at once: their automata are multiplied
MOST_TOGETHER = 4
# alternatives of the members of one `allOf`, multiplied
MOST_COMBINED = 1_000
# characters that every answer would have
LONGEST_ANSWER = 1_000_000
# they do not change what is allowed
EXPLAINING = frozenset({"description", "title", "examples", "example", "default", "$comment"})

REPEAT = re.compile(r"\{(\d+)(,(\d*))?\}")


class SchemaError(ValueError):
    """The JSON schema cannot be enforced, or not within the bounds of a request."""

    # the request's parameter that holds it
    parameter = "response_format"


class _Pattern:
    """Counts a regular expression's places without parsing more of it than that takes."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def places(self) -> int:
        """Places of the automaton, every repetition written out."""
        # of each group that is open; one that was never opened is the compiler's to complain of
        sizes = [0]
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "(":
                sizes.append(0)
                self._at += 1
                continue
            if character == ")" and len(sizes) > 1:
                last = max(1, sizes.pop())
                self._at += 1
            elif character == "|":
                self._at += 1
                continue
            else:
                last = self._atom(character)
            sizes[-1] += last * self._times()
            if sizes[-1] > LARGEST_PATTERN:
                return sizes[-1]
        return sum(sizes)

    def _atom(self, character: str) -> int:
        if character == "\\":
            self._at += 2
        elif character == "[":
            self._class()
        else:
            self._at += 1
        return 1

    def _class(self) -> None:
        # the first ] belongs to it
        self._at += 2
        while self._at < len(self._text) and self._text[self._at] != "]":
            self._at += 2 if self._text[self._at] == "\\" else 1
        self._at += 1

    def _times(self) -> int:
        """How often the last atom stands there; several quantifiers multiply."""
        times = 1
        while self._at < len(self._text):
            if self._text[self._at] in "*+?":
                self._at += 1
                continue
            found = REPEAT.match(self._text, self._at)
            if found is None:
                break
            self._at = found.end()
            least, _comma, most = found.groups()
            # a number of thousands of digits is no number that anybody counts to
            times = min(times * max(1, _number(most or least)), LARGEST_PATTERN + 1)
        return times


def _number(digits: str) -> int:
    return int(digits) if len(digits) < 10 else LARGEST_PATTERN + 1


def pattern_places(pattern: str) -> int:
    """Places of a regular expression with its repetitions written out; counting stops early."""
    return _Pattern(pattern).places()


def divisor_states(divisor: float) -> int:
    """States of the automaton of `multipleOf`: zeros at the end cost nothing."""
    digits = Decimal(str(divisor)).normalize().as_tuple().digits
    return int("".join(map(str, digits))) if len(digits) < 10 else LARGEST_DIVISORS + 1


class _Count:
    """A sum that must stay within a limit."""

    def __init__(self, what: str, most: int) -> None:
        self._what, self._most, self._sum = what, most, 0

    def add(self, count: int) -> None:
        self._sum += count
        if self._sum > self._most:
            raise SchemaError(f"it has more {self._what} than {self._most}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _members(schema: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = schema.get(name)
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


class _Walk:
    """One pass over the schema, which ends with the first limit that is passed."""

    def __init__(self) -> None:
        self._nodes = _Count("parts", MOST_NODES)
        self._characters = _Count("characters", MOST_CHARACTERS)
        self._properties = _Count("properties", MOST_PROPERTIES)
        self._values = _Count("values in enum", MOST_VALUES)
        self._patterns = _Count("places in its patterns", LARGEST_PATTERNS)
        self._divisors = _Count("states for multipleOf", LARGEST_DIVISORS)

    def run(self, schema: object) -> None:
        # depth, and how often every answer has what is found there
        left: list[tuple[object, int, int]] = [(schema, 0, 1)]
        while left:
            value, depth, times = left.pop()
            # before anything looks through them
            self._nodes.add(len(value) if isinstance(value, (dict, list)) else 0)
            if depth > DEEPEST:
                raise SchemaError(f"it is nested deeper than {DEEPEST}")
            if isinstance(value, str):
                self._characters.add(len(value))
            elif isinstance(value, list):
                left.extend((part, depth + 1, times) for part in value)
            elif isinstance(value, dict):
                times = self._object(value, times)
                left.extend((part, depth + 1, times) for part in self._parts(value))

    def _parts(self, value: Mapping[str, Any]) -> Iterator[object]:
        for name, part in value.items():
            self._characters.add(len(name))
            if not (name in EXPLAINING and isinstance(part, (str, list))):
                yield part

    def _object(self, schema: Mapping[str, Any], times: int) -> int:
        """Count what this part asks for; how often its own parts are in every answer."""
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            self.pattern(pattern)
        if isinstance(properties := schema.get("properties"), dict):
            self._properties.add(len(properties))
        if isinstance(named := schema.get("patternProperties"), dict):
            self._named(named)
        if isinstance(values := schema.get("enum"), list):
            self._values.add(len(values))
        divisor: object = schema.get("multipleOf")
        if _is_number(divisor):
            self._divisor(divisor)
        self._together(schema)
        return self._least(schema, times)

    def pattern(self, pattern: str) -> None:
        places = len(pattern) if len(pattern) > LARGEST_PATTERN else pattern_places(pattern)
        if places > LARGEST_PATTERN:
            raise SchemaError(
                f"a pattern has more than {LARGEST_PATTERN} places when its repetitions are "
                "written out"
            )
        self._patterns.add(places)

    def _named(self, named: Mapping[str, Any]) -> None:
        if len(named) > MOST_PATTERN_PROPERTIES:
            raise SchemaError(
                f"an object has more than {MOST_PATTERN_PROPERTIES} patternProperties"
            )
        for pattern in named:
            self.pattern(pattern)

    def _divisor(self, divisor: float) -> None:
        states = divisor_states(divisor)
        if states > LARGEST_DIVISOR:
            raise SchemaError(
                f"multipleOf may have {LARGEST_DIVISOR} at most, zeros at its end not counted"
            )
        self._divisors.add(states)

    def _together(self, schema: Mapping[str, Any]) -> None:
        """What one value must satisfy at once is multiplied."""
        parts = [schema, *_flat(schema)]
        patterns = sum(isinstance(part.get("pattern"), str) for part in parts)
        patterns += sum(isinstance(part.get("format"), str) for part in parts)
        if patterns > MOST_TOGETHER:
            raise SchemaError(f"one string must match more than {MOST_TOGETHER} patterns at once")
        divisors = math.prod(
            divisor_states(part["multipleOf"])
            for part in parts
            if _is_number(part.get("multipleOf"))
        )
        if divisors > LARGEST_DIVISOR:
            raise SchemaError(f"multipleOf of one number multiply to more than {LARGEST_DIVISOR}")
        combined = math.prod(
            max(1, len(alternatives))
            for part in parts
            for name in ("anyOf", "oneOf")
            if (alternatives := _members(part, name))
        )
        if len(parts) > 1 and combined > MOST_COMBINED:
            raise SchemaError(f"the alternatives in allOf multiply to more than {MOST_COMBINED}")

    def _least(self, schema: Mapping[str, Any], times: int) -> int:
        asked: list[object] = [schema.get(n) for n in ("minItems", "minProperties", "minLength")]
        times *= max(1, *[int(value) for value in asked if _is_number(value)], 1)
        if times > LONGEST_ANSWER:
            raise SchemaError(f"every answer would have more than {LONGEST_ANSWER} characters")
        return times


def _flat(schema: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The members of its `allOf`, and of theirs, as far as a schema may be nested."""
    found: list[Mapping[str, Any]] = []
    left = _members(schema, "allOf")
    for _level in range(DEEPEST):
        found += left
        left = [inner for part in left for inner in _members(part, "allOf")]
        if not left or len(found) > MOST_NODES:
            break
    return found


def check_cost(schema: object) -> None:
    """Raises SchemaError where a schema asks for more than an answer can be held to."""
    _Walk().run(schema)


def check_patterns(patterns: Iterable[str]) -> None:
    """The same for patterns that stand by themselves."""
    walk = _Walk()
    for pattern in patterns:
        walk.pattern(pattern)
