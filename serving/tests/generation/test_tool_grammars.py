"""Grammars over published tokenizers: what they allow, and that it reads back as what was meant."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_tokenizers import RealTokenizers
from waiting import PATIENCE

from deepseek_serving.backends.wanted_answers import WantedAnswer, WantedAnswers
from deepseek_serving.generation.constrained import Grammars, MatcherConstraint
from deepseek_serving.generation.reply import Piece, ReplyParser
from deepseek_serving.generation.request import Format, Tools
from deepseek_serving.generation.tool_formats import tool_format
from deepseek_serving.text.prompts import Prompt
from deepseek_serving.text.tokenizer import ChatTokenizer

# those that can call tools
FAMILIES = (
    "qwen2.5",
    "qwen3",
    "hermes",
    "llama3.1",
    "deepseek-r1",
    "deepseek-v3.1",
    "deepseek-r1-distill-qwen",
    "deepseek-r1-0528-qwen3-8b",
)
BED = {
    "type": "object",
    "properties": {"bed": {"type": "integer"}},
    "required": ["bed"],
    "additionalProperties": False,
}
# as pydantic writes nested models
WARD = {
    "type": "object",
    "properties": {"ward": {"$ref": "#/$defs/Ward"}},
    "required": ["ward"],
    "additionalProperties": False,
    "$defs": {
        "Ward": {
            "type": "object",
            "properties": {
                "name": {"enum": ["<think>", "</tool_call>", "<|im_end|>", "A"]},
                "inner": {"anyOf": [{"$ref": "#/$defs/Ward"}, {"type": "null"}]},
            },
            "required": ["name", "inner"],
            "additionalProperties": False,
        }
    },
}
FUNCTIONS: list[dict[str, Any]] = [
    {"name": "find", "parameters": BED},
    {"name": "find_ward", "parameters": WARD},
    {"name": "stop"},
]
INNER = {"name": "</tool_call>", "inner": {"name": "<|im_end|>", "inner": None}}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("find", {"bed": 3}),
    ("find_ward", {"ward": {"name": "<think>", "inner": INNER}}),
    ("stop", {}),
]


class Model:
    """A family's tokenizer and grammars, and a model that says what it is told as far as it may."""

    def __init__(self, tokenizers: RealTokenizers, family: str) -> None:
        directory = tokenizers.directory(family)
        self.chat: ChatTokenizer = tokenizers.chat(family)
        record = json.loads((directory / "config.json").read_text())
        self.end = record["eos_token_id"]
        self.size = record["vocab_size"]
        self.grammars = Grammars(directory, self.size, {self.end})
        self.form = tool_format(self.chat.tool_template_source)
        self._wanted = WantedAnswers(self.chat, self.form, self.grammars.writer)
        tokens = list(map(self.grammars.token_bytes, range(self.size)))
        self._by_bytes: dict[bytes, list[int]] = {}
        for number, data in enumerate(tokens):
            self._by_bytes.setdefault(data, []).append(number)
        self._longest = max(map(len, tokens))

    def wanted(
        self, tools: Tools | None = None, asked: Format | None = None, prompt: str = "assistant\n"
    ) -> WantedAnswer:
        begun = prompt.rstrip().endswith("<think>")
        return self._wanted.of(Prompt(prompt, prompt, in_thoughts=begun), tools, asked)

    def say(self, wanted: WantedAnswer, text: str) -> tuple[Piece, int]:
        """The reply of a model that wants to say `text`, and how much of it it could say.

        Of the tokens that are allowed it takes the longest that the text goes on with.
        """
        assert wanted.grammar is not None
        # that grammars are tried elsewhere first is shown in test_grammars
        template = self.grammars._compiled(wanted.grammar)
        constraint = MatcherConstraint(template, wanted.thoughts, self.grammars._threads)
        stream = self.chat.stream()
        parser = ReplyParser((), thinking=wanted.thinking, tools=wanted.calls)
        data, at, read = text.encode(), 0, []
        while True:
            constraint.begin(lambda: None)
            assert constraint.wait(PATIENCE)
            if constraint.complete:
                break
            allowed = constraint.allowed()
            token = self._next(data, at, allowed)
            if token is None:
                # it would end here, or is not let
                at = at if at < len(data) or allowed is None or allowed[self.end] else -1
                break
            constraint.accept(token)
            at += len(self.grammars.token_bytes(token))
            read.append(parser.push(stream.push(token)))
        return Piece.whole([*read, parser.finish()]), at

    def _next(self, data: bytes, at: int, allowed: np.ndarray[Any, Any] | None) -> int | None:
        for length in range(min(self._longest, len(data) - at), 0, -1):
            for token in self._by_bytes.get(data[at : at + length], ()):
                if allowed is None or allowed[token]:
                    return token
        return None

    def can_say(self, wanted: WantedAnswer, text: str) -> bool:
        return self.say(wanted, text)[1] == len(text.encode())

    def written(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Calls as the family's own template has them."""
        form = self.form
        assert form is not None
        texts = [
            form.begin
            + form.head.replace("{name}", name)
            + json.dumps(arguments, ensure_ascii=False)
            + form.tail
            + form.end
            for name, arguments in calls
        ]
        return form.outer[0] + form.between[0].join(texts) + form.outer[1]


@pytest.fixture(params=FAMILIES, scope="module")
def model(request: pytest.FixtureRequest, real_tokenizers: RealTokenizers) -> Iterator[Model]:
    made = Model(real_tokenizers, request.param)
    yield made
    made.grammars.close()


def forced(*names: str, parallel: bool = True) -> Tools:
    return Tools(FUNCTIONS, names or [f["name"] for f in FUNCTIONS], parallel=parallel)


def made_calls(piece: Piece) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in piece.calls]


def test_calls_are_enforced_and_read_back(model: Model) -> None:
    """Among them texts that hold what the tokenizer has marks for, and schemas with references."""
    wanted = model.wanted(forced())
    for calls in (CALLS[:1], CALLS):
        text = model.written(calls)
        piece, said = model.say(wanted, text)
        assert said == len(text.encode())
        assert made_calls(piece) == calls
        assert not piece.content
    assert not model.can_say(wanted, "No.")
    assert not model.can_say(wanted, model.written([("find", {"bed": "x"})]))


def test_a_named_function_is_the_only_one(model: Model) -> None:
    wanted = model.wanted(forced("stop"))
    assert model.can_say(wanted, model.written(CALLS[2:]))
    assert not model.can_say(wanted, model.written(CALLS[:1]))


def test_one_call_is_all_where_one_may_be_made(model: Model) -> None:
    wanted = model.wanted(forced(parallel=False))
    piece, said = model.say(wanted, model.written(CALLS))
    assert made_calls(piece) == CALLS[:1]
    assert said < len(model.written(CALLS).encode())


def test_a_call_or_the_format(model: Model) -> None:
    asked = Format("json", {"type": "object", "properties": {"name": {"type": "string"}}})
    wanted = model.wanted(Tools(FUNCTIONS), asked)
    piece, _said = model.say(wanted, '{"name": "Ada"}')
    assert piece == Piece('{"name": "Ada"}')
    piece, _said = model.say(wanted, model.written(CALLS[1:2]))
    assert made_calls(piece) == CALLS[1:2]
    assert not model.can_say(wanted, "Ada")
    # required: the format cannot be given
    wanted = model.wanted(forced(), asked)
    assert not model.can_say(wanted, '{"name": "Ada"}')


def test_a_strict_call_is_held_to_its_schema_once_it_begins(model: Model) -> None:
    strict = [{**FUNCTIONS[0], "strict": True}, FUNCTIONS[1]]
    wanted = model.wanted(Tools(strict))
    for text in ("In bed 3.", "It has { and <think> in it."):
        assert model.say(wanted, text)[0] == Piece(text)
    assert made_calls(model.say(wanted, model.written(CALLS[:1]))[0]) == CALLS[:1]
    assert not model.can_say(wanted, model.written([("find", {"bed": "x"})]))
    assert not model.can_say(wanted, model.written([("lose", {"bed": 3})]))
    # what is not strict is any object
    assert model.can_say(wanted, model.written([("find_ward", {"bed": 3})]))
    # without strict nothing is held
    assert model.wanted(Tools(FUNCTIONS)).grammar is None


def test_calls_after_text(model: Model) -> None:
    strict = [{**function, "strict": True} for function in FUNCTIONS]
    if model.form is None or not model.form.end:
        pytest.skip("without marks, calls are all of a reply")
    text = "I look.\n" + model.written(CALLS)
    piece, said = model.say(model.wanted(Tools(strict)), text)
    assert (piece.content, made_calls(piece)) == ("I look.\n", CALLS)
    assert said == len(text.encode())


def test_thoughts_may_come_before_what_is_held(model: Model) -> None:
    if model.chat.token("</think>") is None:
        pytest.skip("does not think")
    asked = Format("json", {"enum": ["<think>"]})
    answer = '"<think>"'
    thought = "A { and a <tool_call>?"
    for prompt, said in (
        ("assistant\n", f"<think>\n{thought}\n</think>\n\n"),
        ("assistant\n<think>\n", f"{thought}\n</think>\n\n"),
    ):
        wanted = model.wanted(asked=asked, prompt=prompt)
        piece, length = model.say(wanted, said + answer)
        assert length == len((said + answer).encode())
        assert (piece.reasoning.strip(), piece.content) == (thought, answer)
        assert not model.can_say(wanted, f"{said}No.")
    # the model need not think where the prompt has not begun it, and may not where it is over
    assert model.can_say(model.wanted(asked=asked), answer)
    over = model.wanted(asked=asked, prompt="<think>\n\n</think>\n\n")
    assert model.can_say(over, answer)
    assert not model.can_say(over, f"<think>{thought}</think>{answer}")
    calls = model.written(CALLS)
    piece, _length = model.say(model.wanted(forced()), f"<think>{thought}</think>\n\n{calls}")
    assert (piece.reasoning, made_calls(piece)) == (thought, CALLS)


SIBLINGS: list[tuple[dict[str, Any], str]] = [
    ({"const": "<tool_call>\n"}, '"<tool_call>\\n"'),
    ({"type": "string"}, '"a </think> b"'),
    ({"type": "string", "pattern": "^<think>[a-z]+</think>$"}, '"<think>so</think>"'),
    (
        {
            "type": "object",
            "properties": {"<|im_start|>": {"type": "integer"}},
            "required": ["<|im_start|>"],
            "additionalProperties": False,
        },
        '{"<|im_start|>": 1}',
    ),
    (
        {"type": "object", "patternProperties": {"^<\uff5cUser\uff5c>$": {"type": "integer"}}},
        '{"<\uff5cUser\uff5c>": 1}',
    ),
]


def test_text_that_looks_like_a_mark_is_text(model: Model) -> None:
    formats = [(Format("json", schema), text) for schema, text in SIBLINGS]
    formats += [
        (Format("regex", "(<think>|<[|]eot_id[|]>)+"), "<think><|eot_id|><think>"),
        (Format("choice", ["<think>", "<|im_end|>", "no"]), "<|im_end|>"),
        (Format("grammar", 'start: "<think>" inner\ninner: /[0-9]+/'), "<think>12"),
        (Format("grammar", 'root ::= "</think>" [0-9]+'), "</think>12"),
    ]
    for asked, text in formats:
        wanted = model.wanted(asked=asked, prompt="</think>\n\n")
        piece, said = model.say(wanted, text)
        assert (said, piece.content) == (len(text.encode()), text), asked
        assert not model.can_say(wanted, "nothing of this kind")


# --- any schema ---------------------------------------------------------------------------------

TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=8
) | st.sampled_from(
    ["<think>", "</tool_call>", "<\uff5ctool\u2581call\u2581end\uff5c>", '"}', "; {", "```"]
)
VALUES: st.SearchStrategy[tuple[Any, Any]] = st.recursive(
    st.one_of(
        st.integers(-(10**6), 10**6).map(lambda n: ({"type": "integer"}, n)),
        st.booleans().map(lambda b: ({"type": "boolean"}, b)),
        TEXTS.map(lambda t: ({"type": "string"}, t)),
        TEXTS.map(lambda t: ({"enum": ["other", t]}, t)),
        TEXTS.map(lambda t: ({"const": t}, t)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(
            lambda pairs: (
                {"type": "array", "items": {"anyOf": [s for s, _v in pairs] or [{}]}},
                [value for _s, value in pairs],
            )
        ),
        st.dictionaries(TEXTS, inner, max_size=3).map(lambda members: objects(members)),
    ),
    max_leaves=6,
)


def objects(members: Mapping[str, tuple[Any, Any]]) -> tuple[Any, Any]:
    schema = {
        "type": "object",
        "properties": {name: schema for name, (schema, _value) in members.items()},
        "required": list(members),
        "additionalProperties": False,
    }
    return schema, {name: value for name, (_schema, value) in members.items()}


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(pair=st.dictionaries(TEXTS, VALUES, max_size=3).map(objects))
def test_whatever_a_schema_accepts_can_be_called_and_is_read_back(model: Model, pair: Any) -> None:
    schema, arguments = pair
    functions = [*FUNCTIONS, {"name": "any", "parameters": schema}]
    wanted = model.wanted(Tools(functions, ["any", "stop"]))
    calls = [("any", arguments), ("stop", {})]
    piece, said = model.say(wanted, model.written(calls))
    assert said == len(model.written(calls).encode())
    assert made_calls(piece) == calls
