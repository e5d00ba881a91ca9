"""Grammars that clients write, in Lark's syntax as llguidance has it or in GBNF.

They are looked through before anything is made of them: what is bounded in a schema is bounded
here, what would change how the whole answer is read is refused, and marks are given their numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from llguidance.gbnf_to_lark import gbnf_to_lark

from deepseek_serving.generation.grammar_cost import SchemaError, check_cost, check_patterns

# characters; GBNF is translated by Python, which takes 3 ms for a thousand of them
LONGEST_LARK, LONGEST_GBNF = 32_000, 8_000
# how often a part of a grammar may be written out, by one count
MOST_TIMES = 10_000
# what Lark has: comments, texts, patterns, names of tokens, statements, counts, and the rest
TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"i?)
      | (?P<pattern>/(?:[^/\\\n]|\\.)+/[a-z]*)
      | (?P<mark><[^<>\s"/]+>)
      | (?P<statement>%[a-z]+)
      | (?P<count>\{\s*\d*\s*,?\s*\d*\s*\}|~\s*\d+(?:\s*\.\.\s*\d+)?)
      | (?P<rest>[A-Za-z0-9_.]+|\s+|.)""",
    re.VERBOSE | re.DOTALL,
)
STATEMENTS = frozenset(("%json", "%ignore", "%import"))
# gbnf_to_lark begins with it
NO_OPTIONS = "%llguidance {}"


def client_grammar(text: str, marks: Mapping[str, int]) -> str:
    """The grammar as llguidance is to read it. Raises SchemaError."""
    if re.search(r"::=", text) and not re.search(r"(?m)^\s*\??start\s*:(?!:)", text):
        _check_length(text, LONGEST_GBNF)
        text = gbnf_to_lark(text).removeprefix(NO_OPTIONS)
    _check_length(text, LONGEST_LARK)
    return _Reader(text, marks).read()


def _check_length(text: str, most: int) -> None:
    if len(text) > most:
        raise SchemaError(f"the grammar has {len(text)} characters; at most {most} are accepted")


class _Reader:
    """One pass over the text."""

    def __init__(self, text: str, marks: Mapping[str, int]) -> None:
        self._text = text
        self._marks = marks
        self._patterns: list[str] = []

    def read(self) -> str:
        parts, at = [], 0
        while at < len(self._text):
            found = TOKEN.match(self._text, at)
            assert found is not None
            part, at = found[0], found.end()
            if found["mark"] in self._marks:
                part = f"<[{self._marks[part]}]>"
            elif found["pattern"]:
                self._patterns.append(part[1 : part.rindex("/")])
            elif found["count"]:
                _check_count(part)
            elif found["statement"]:
                at = self._statement(part, at)
                part = self._text[found.start() : at]
            parts.append(part)
        check_patterns(self._patterns)
        return "".join(parts)

    def _statement(self, name: str, at: int) -> int:
        """Where it ends."""
        if name not in STATEMENTS:
            raise SchemaError(f"the grammar's statement {name} is not supported by this service")
        if name != "%json":
            return at
        while at < len(self._text) and self._text[at].isspace():
            at += 1
        try:
            schema, end = json.JSONDecoder().raw_decode(self._text, at)
        except (ValueError, RecursionError) as error:
            raise SchemaError(f"what follows %json in the grammar is not JSON: {error}") from error
        check_cost(schema)
        return end


def _check_count(count: str) -> None:
    for digits in re.findall(r"\d+", count):
        if len(digits) > 9 or int(digits) > MOST_TIMES:
            raise SchemaError(f"the grammar repeats a part more than {MOST_TIMES} times")
