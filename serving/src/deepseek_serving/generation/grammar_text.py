"""Writes grammars for llguidance: formats, calls of tools, both, and thoughts before them.

What a client gives as a schema or grammar stays a grammar of its own, to which the others refer:
so references inside a schema mean what they meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from deepseek_serving.errors import library_error
from deepseek_serving.generation.grammar_client import client_grammar
from deepseek_serving.generation.grammar_cost import (
    SchemaError,
    check_cost,
    check_patterns,
)
from deepseek_serving.generation.request import Format
from deepseek_serving.generation.tool_formats import ToolFormat

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# some white space, as people write JSON, but no endless run of it
JSON_STYLE: JsonCompileOptions = {"whitespace_pattern": r"[ \n]{0,4}"}
ANY_TEXT = r"/(.|\n)*/"
OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class Calls:
    """Calls that an answer must be, or may have."""

    form: ToolFormat
    functions: Sequence[Mapping[str, Any]]
    # more than one of them
    several: bool = True
    # text may stand before them, or in their place
    optional: bool = False


@dataclass(frozen=True)
class TextThoughts:
    """Thoughts whose marks are text to the tokenizer: the grammar must find their end."""

    begin: str
    end: str
    # the prompt has begun them
    begun: bool


@dataclass(frozen=True)
class Wanted:
    """What an answer must be: calls, a format, or one of them."""

    calls: Calls | None = None
    format: Format | None = None
    thoughts: TextThoughts | None = None

    @property
    def parameter(self) -> str:
        """What the request asked it by."""
        return "tools" if self.calls or self.format is None else self.format.parameter


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {**schema, "x-guidance": JSON_STYLE}


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    return {**OBJECT, **(function.get("parameters") or {})}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references are right where it is put, `place` in another one."""
    if isinstance(schema, Mapping):
        return {
            name: place + part[1:]
            if name == "$ref" and isinstance(part, str) and part.startswith("#")
            else _moved(part, place)
            for name, part in schema.items()
        }
    return [_moved(part, place) for part in schema] if isinstance(schema, list) else schema


@dataclass
class _Grammar:
    """Rules in llguidance's dialect of Lark, and the grammars that they refer to."""

    # numbers of the tokens that are marks
    marks: Mapping[str, int]
    rules: list[str] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)

    def literal(self, text: str) -> str:
        """A text, of which marks are tokens."""
        found = [mark for mark in self.marks if mark in text]
        pattern = "|".join(map(re.escape, sorted(found, key=len, reverse=True)))
        parts = re.split(f"({pattern})", text) if found else [text]
        return " ".join(
            f"<[{self.marks[part]}]>" if part in self.marks else _text(part)
            for part in parts
            if part
        )

    def refer(self, **grammar: Any) -> str:
        name = f"part_{len(self.others)}"
        self.others.append({"name": name, **grammar})
        return f"@{name}"

    def json(self, schema: Mapping[str, Any]) -> str:
        return self.refer(json_schema=_schema(schema))

    def rule(self, name: str, *parts: str) -> str:
        self.rules.append(f"{name}: {' '.join(filter(None, parts))}")
        return name.partition("[")[0]

    @property
    def defined(self) -> set[str]:
        return {rule.partition(":")[0] for rule in self.rules}

    def text(self) -> str:
        first = {"name": "answer", "lark_grammar": "\n".join(self.rules) + "\n"}
        return _text({"grammars": [first, *self.others]})


class GrammarWriter:
    """Writes grammars over one vocabulary."""

    def __init__(self, marks: Mapping[int, str]) -> None:
        self._marks = {content: number for number, content in marks.items()}

    def write(self, wanted: Wanted) -> str:
        """Raises SchemaError, which names the parameter."""
        try:
            return self._write(wanted)
        except SchemaError:
            raise
        except BaseException as error:
            raise _of_library(error, wanted.parameter) from error

    def _write(self, wanted: Wanted) -> str:
        _check(wanted)
        asked = wanted.format
        alone = wanted.calls is None and wanted.thoughts is None
        if alone and asked is not None and asked.kind == "json":
            return LLMatcher.grammar_from_json_schema(_text(asked.content), overrides=JSON_STYLE)
        grammar = _Grammar(self._marks)
        answer = self._answer(grammar, wanted)
        grammar.rule("start", _thoughts(grammar, wanted.thoughts), answer)
        return grammar.text()

    def _answer(self, grammar: _Grammar, wanted: Wanted) -> str:
        calls, asked = wanted.calls, wanted.format
        if calls is None:
            assert asked is not None
            return self._format(grammar, asked)
        if asked is None:
            return _with_text(grammar, calls) if calls.optional else _calls(grammar, calls)
        if not calls.form.end and asked.kind == "json":
            return _one_object(grammar, calls, asked.content)
        made, other = _calls(grammar, calls), self._format(grammar, asked)
        return grammar.rule("either", f"{made} | {other}")

    def _format(self, grammar: _Grammar, asked: Format) -> str:
        content: Any = asked.content
        if asked.kind == "json":
            return grammar.json(content)
        if asked.kind == "regex":
            return grammar.refer(**_first(LLMatcher.grammar_from_regex(content)))
        if asked.kind == "choice":
            return grammar.rule("choice", " | ".join(_text(choice) for choice in content))
        if asked.kind == "tags":
            return _tagged(grammar, content)
        with _blamed(asked.parameter):
            return grammar.refer(lark_grammar=client_grammar(content, self._marks))


def _of_library(error: BaseException, parameter: str) -> SchemaError:
    refused = SchemaError(str(library_error("llguidance", error)))
    refused.parameter = parameter
    return refused


def _first(grammars: str) -> dict[str, Any]:
    (found,) = json.loads(grammars)["grammars"]
    return {"lark_grammar": found["lark_grammar"]}


@contextmanager
def _blamed(parameter: str) -> Iterator[None]:
    """For what a parameter of the request says."""
    try:
        yield
    except SchemaError as error:
        error.parameter = parameter
        raise


def _check(wanted: Wanted) -> None:
    """What it costs, before anything is made of it."""
    asked, calls = wanted.format, wanted.calls
    if asked is not None:
        with _blamed(asked.parameter):
            _check_format(asked)
    if calls is not None:
        with _blamed("tools"):
            check_cost([_arguments(function) for function in calls.functions])


def _check_format(asked: Format) -> None:
    """A grammar is looked through while it is read."""
    if asked.kind == "json":
        check_cost(asked.content)
    elif asked.kind == "regex":
        check_patterns([asked.content])
    elif asked.kind == "choice":
        check_cost({"enum": list(asked.content)})
    elif asked.kind == "tags":
        check_cost([schema for _begin, schema, _end in asked.content["tags"]])


def _thoughts(grammar: _Grammar, thoughts: TextThoughts | None) -> str:
    """Thoughts, and line breaks that part them from what follows."""
    if thoughts is None:
        return ""
    suffix = f"[suffix={_text(thoughts.end)}]"
    if thoughts.begun:
        return grammar.rule(f"thoughts{suffix}", ANY_TEXT) + r" /\n{0,2}/"
    grammar.rule(f"thoughts{suffix}", _text(thoughts.begin), ANY_TEXT)
    return r"(thoughts /\n{0,2}/)?"


def _call(grammar: _Grammar, calls: Calls, begin: str) -> str:
    """One call of one of the functions, what marks it included."""
    form = calls.form
    ways = []
    for number, function in enumerate(calls.functions):
        head = grammar.literal(begin + form.head.replace("{name}", function["name"]))
        arguments = grammar.json(_arguments(function))
        tail = grammar.literal(form.tail + form.end)
        ways.append(grammar.rule(f"call_{number}", head, arguments, tail))
    return grammar.rule("call", " | ".join(ways))


def _more(calls: Calls, call: str) -> str:
    """As many others as there may be."""
    between = " | ".join(map(_text, filter(None, calls.form.between)))
    return f"({f'({between})' if between else ''} {call})*" if calls.several else ""


def _calls(grammar: _Grammar, calls: Calls) -> str:
    form, call = calls.form, _call(grammar, calls, calls.form.begin)
    preface = f"<[{grammar.marks[form.preface]}]>?" if form.preface in grammar.marks else ""
    begin, end = map(grammar.literal, form.outer)
    return grammar.rule("calls", preface, begin, call, _more(calls, call), end)


def _with_text(grammar: _Grammar, calls: Calls) -> str:
    """Any text; but once a call begins, it is held to its form."""
    form = calls.form
    if not form.end:
        # without marks it begins as no other text may
        plain = grammar.rule("plain", r"/([^{ \n](.|\n)*)?/")
        return f"({_calls(grammar, calls)} | {plain})"
    if form.outer[0]:
        call = _call(grammar, calls, form.begin)
        whole = grammar.rule("calls", call, _more(calls, call), grammar.literal(form.outer[1]))
    else:
        whole = _call(grammar, calls, "")
    opened = _trigger(grammar, "opened", form.opens)
    called = f"{opened} {whole}"
    return f"({called})* TEXT" if calls.several else f"({called} | TEXT)"


def _trigger(grammar: _Grammar, name: str, mark: str) -> str:
    """Any text up to a mark."""
    if "TEXT" not in grammar.defined:
        grammar.rule("TEXT", ANY_TEXT)
    if mark in grammar.marks:
        return f"TEXT <[{grammar.marks[mark]}]>"
    return grammar.rule(f"{name}[lazy]", "TEXT", _text(mark))


def _one_object(grammar: _Grammar, calls: Calls, schema: Mapping[str, Any]) -> str:
    """Where calls have no marks they are told from a format by what they have as JSON."""
    member = calls.form.members[0]
    ways = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                member: _moved(_arguments(function), f"#/anyOf/{number}/properties/{member}"),
            },
            "required": ["name", member],
            "additionalProperties": False,
        }
        for number, function in enumerate(calls.functions)
    ]
    ways.append(_moved(schema, f"#/anyOf/{len(ways)}"))
    return grammar.json({"anyOf": ways})


def _tagged(grammar: _Grammar, asked: Mapping[str, Any]) -> str:
    """Any text; but what follows a trigger is one of the tags that begin with it."""
    ways = []
    for number, trigger in enumerate(asked["triggers"]):
        head = _trigger(grammar, f"trigger_{number}", trigger)
        tags = [tag for tag in asked["tags"] if tag[0].startswith(trigger)]
        bodies = " | ".join(_tag(grammar, trigger, *tag) for tag in tags)
        ways.append(grammar.rule(f"tag_{number}", head, f"({bodies})"))
    return grammar.rule("tagged", f"({' | '.join(ways)})*", "TEXT")


def _tag(grammar: _Grammar, trigger: str, begin: str, schema: Mapping[str, Any], end: str) -> str:
    """What follows the trigger."""
    parts = (grammar.literal(begin[len(trigger) :]), grammar.json(schema), grammar.literal(end))
    return " ".join(filter(None, parts))
