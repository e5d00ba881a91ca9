"""Thoughts, content and calls, told apart however the text is cut into pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.generation.call_reading import ToolCall
from deepseek_serving.generation.call_scanner import ExpectedCalls
from deepseek_serving.generation.reply import Piece, ReplyParser
from deepseek_serving.generation.tool_formats import (
    DEEPSEEK,
    DEEPSEEK_V3_1,
    HERMES,
    LLAMA,
    ToolFormat,
    tool_format,
)

CALL = json.dumps({"name": "look_up", "arguments": {"patient": "äöü", "days": 3}})
DEEPSEEK_CALLS = (
    "{0}calls\u2581begin{1}{0}call\u2581begin{1}function{0}sep{1}look_up\n```json\n"
    '{{"days": 3}}\n```{0}call\u2581end{1}\n{0}call\u2581begin{1}function{0}sep{1}stop\n```json\n'
    "{{}}\n```{0}call\u2581end{1}{0}calls\u2581end{1}"
).format("<\uff5ctool\u2581", "\uff5c>")
V3_1_CALLS = (
    "{0}calls\u2581begin{1}{0}call\u2581begin{1}look_up{0}sep{1}"
    '{{"days": 3}}{0}call\u2581end{1}{0}call\u2581begin{1}stop{0}sep{1}'
    "{{}}{0}call\u2581end{1}{0}calls\u2581end{1}"
).format("<\uff5ctool\u2581", "\uff5c>")
CALLED = ("look_up", {"patient": "äöü", "days": 3})
MARKED = '<tool_call>{"name": "look_up", "arguments": {"a": "</tool_call><tool_call>"}}</tool_call>'
AS_TEXT = json.dumps({"name": "f", "arguments": json.dumps({"a": 1})})
NOT_A_NUMBER = '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>'
EMPTY: list[tuple[str, object]] = [("f", {}), ("g", {})]


@st.composite
def pieces_of(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def parse(
    pieces: Sequence[str],
    *,
    thinking: bool | None = None,
    tools: ToolFormat | ExpectedCalls | None = None,
    stops: Sequence[str] = (),
    cut: bool = False,
) -> Piece:
    if isinstance(tools, ToolFormat):
        tools = ExpectedCalls(tools)
    parser = ReplyParser(stops, thinking=thinking, tools=tools)
    read = Piece()
    for piece in pieces:
        read += parser.push(piece)
        if parser.stopped:
            break
    return read + parser.finish(cut=cut)


@pytest.mark.parametrize(
    ("thinking", "text", "reasoning", "content"),
    [
        (None, "<think>a</think>b", "", "<think>a</think>b"),
        (True, "so it is</think>\n\nYes.", "so it is", "Yes."),
        (True, "never ends", "never ends", ""),
        (True, "a</thin</think>b", "a</thin", "b"),
        (False, "<think>\nso</think>\n\nYes.", "\nso", "Yes."),
        (False, "\n<think>so</think>Yes.\n\n", "so", "Yes.\n\n"),
        (False, "Yes, <think> is a mark.", "", "Yes, <think> is a mark."),
        (False, "<thi", "", "<thi"),
        (False, "", "", ""),
    ],
)
@given(data=st.data())
def test_thoughts_are_told_from_content(
    data: st.DataObject, thinking: bool | None, text: str, reasoning: str, content: str
) -> None:
    read = parse(data.draw(pieces_of(text)), thinking=thinking)
    assert (read.reasoning, read.content) == (reasoning, content)


@given(data=st.data())
def test_stop_strings_count_in_content_alone(data: st.DataObject) -> None:
    read = parse(
        data.draw(pieces_of("first END then</think>shown END hidden")), thinking=True, stops=["END"]
    )
    assert (read.reasoning, read.content) == ("first END then", "shown ")


@pytest.mark.parametrize(
    ("form", "text", "content", "calls"),
    [
        (
            HERMES,
            f"I look.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>",
            "I look.\n",
            [("look_up", {"patient": "äöü", "days": 3})] * 2,
        ),
        (HERMES, f"<tool_call>{CALL}</tool_call>\nDone.", "\nDone.", [CALLED]),
        # a mark in a text ends nothing, and one behind a text that is not closed does
        (HERMES, MARKED, "", [("look_up", {"a": "</tool_call><tool_call>"})]),
        (
            HERMES,
            '<tool_call>{"name": "x}</tool_call>y',
            '<tool_call>{"name": "x}</tool_call>y',
            [],
        ),
        # read leniently
        (HERMES, f"<tool_call>{CALL}\n{CALL}</tool_call>", "", [CALLED] * 2),
        (HERMES, f"<tool_call>[{CALL}, {CALL}]</tool_call>", "", [CALLED] * 2),
        (
            HERMES,
            '<tool_call>{"name": "f", "arguments": {"a": "x\ny"}}',
            "",
            [("f", {"a": "x\ny"})],
        ),
        (
            HERMES,
            '<tool_call>{"name": "f", "arguments": {"a": [1, ",}",],},}</tool_call>',
            "",
            [("f", {"a": [1, ",}"]})],
        ),
        (HERMES, f"<tool_call>{AS_TEXT}</tool_call>", "", [("f", {"a": 1})]),
        (HERMES, '<tool_call>{"name": "f"}</tool_call>', "", [("f", {})]),
        (HERMES, NOT_A_NUMBER, NOT_A_NUMBER, []),
        (HERMES, "no call <tool", "no call <tool", []),
        (HERMES, "<tool_call>nonsense</tool_call>x", "<tool_call>nonsense</tool_call>x", []),
        (HERMES, '<tool_call>{"name": "cut', '<tool_call>{"name": "cut', []),
        (HERMES, "<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
        (DEEPSEEK, DEEPSEEK_CALLS, "", [("look_up", {"days": 3}), ("stop", {})]),
        (DEEPSEEK_V3_1, DEEPSEEK_CALLS, "", [("look_up", {"days": 3}), ("stop", {})]),
        (DEEPSEEK_V3_1, f"So: {V3_1_CALLS}", "So: ", [("look_up", {"days": 3}), ("stop", {})]),
        (DEEPSEEK, V3_1_CALLS.replace('{"days": 3}', "days"), "", [("stop", {})]),
        (
            LLAMA,
            '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}',
            "",
            [("f", {"a": 1}), ("g", {})],
        ),
        (LLAMA, '{"name": "f", "parameters": {}}\n{"name": "g", "parameters": {}}', "", EMPTY),
        (LLAMA, '{"name": "f", "parameters": {}}{"name": "g", "parameters": {}}', "", EMPTY),
        (LLAMA, '\n{"name": "f", "parameters": {"a": "}"}}', "\n", [("f", {"a": "}"})]),
        (LLAMA, 'Like {"name": "f"}', 'Like {"name": "f"}', []),
        (LLAMA, '{"no": "call"}', '{"no": "call"}', []),
        (LLAMA, "{not json", "{not json", []),
    ],
)
@given(data=st.data())
def test_calls_are_taken_out_of_the_content(
    data: st.DataObject,
    form: ToolFormat,
    text: str,
    content: str,
    calls: list[tuple[str, object]],
) -> None:
    read = parse(data.draw(pieces_of(text)), tools=form)
    assert read.content == content
    assert [(call.name, json.loads(call.arguments)) for call in read.calls] == calls
    assert len({call.id for call in read.calls}) == len(calls)


@pytest.mark.parametrize(
    ("form", "text", "calls"),
    [
        (HERMES, '<tool_call>\n{"name": "f", "arguments": {"a": "tex', [("f", '{"a": "tex')]),
        (HERMES, '<tool_call>\n{"name": "f", "argu', [("f", "")]),
        (HERMES, '<tool_call>\n{"na', []),
        (HERMES, f'<tool_call>{CALL}\n{{"name": "g', [CALLED]),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}', [("f", '{"a": 1}')]),
        (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a', [("f", "")]),
        (LLAMA, '{"name": "f", "parameters": {"a": [1, 2', [("f", '{"a": [1, 2')]),
        (DEEPSEEK, DEEPSEEK_CALLS.partition('ys"')[0], [("look_up", '{"da')]),
        (DEEPSEEK, DEEPSEEK_CALLS.partition("\n```<")[0] + "\n``", [("look_up", '{"days": 3}')]),
        (DEEPSEEK_V3_1, V3_1_CALLS.partition(":")[0], [("look_up", '{"days"')]),
    ],
)
@given(data=st.data())
def test_a_call_that_is_cut_comes_as_far_as_it_goes(
    data: st.DataObject, form: ToolFormat, text: str, calls: list[tuple[str, object]]
) -> None:
    expected = ExpectedCalls(form, names=frozenset("fg"))
    read = parse(data.draw(pieces_of(text)), tools=expected, cut=True)
    assert read.content == ""
    assert [
        (call.name, _read(call.arguments, made)) for call, made in zip_calls(read, calls)
    ] == calls


def zip_calls(read: Piece, calls: list[tuple[str, object]]) -> list[tuple[ToolCall, object]]:
    return list(zip(read.calls, (made for _name, made in calls), strict=True))


def _read(arguments: str, like: object) -> object:
    return arguments if isinstance(like, str) else json.loads(arguments)


@given(data=st.data())
@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>"),
        (LLAMA, f"{CALL}; {CALL}".replace("arguments", "parameters")),
        (DEEPSEEK, DEEPSEEK_CALLS),
        (DEEPSEEK_V3_1, V3_1_CALLS),
    ],
)
def test_calls_that_a_grammar_holds_come_as_they_are_written(
    form: ToolFormat, text: str, data: st.DataObject
) -> None:
    """Each name first, and arguments that together are those that come in one piece."""
    parser = ReplyParser((), thinking=None, tools=ExpectedCalls(form, held=True))
    parts = [call for piece in data.draw(pieces_of(text)) for call in parser.push(piece).calls]
    assert not parser.finish()
    read = Piece.whole([Piece(calls=(part,)) for part in parts])
    whole = parse([text], tools=form)
    assert [(c.name, json.loads(c.arguments)) for c in read.calls] == [
        (c.name, json.loads(c.arguments)) for c in whole.calls
    ]
    assert len({call.id for call in read.calls}) == 2


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, f"So.<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>"),
        (HERMES, f"So.<tool_call>{CALL}{CALL}</tool_call>"),
        (DEEPSEEK, f"So.{DEEPSEEK_CALLS}"),
        (DEEPSEEK_V3_1, f"So.{V3_1_CALLS}"),
    ],
)
@given(data=st.data())
def test_a_reply_that_may_have_one_call_ends_with_it(
    form: ToolFormat, text: str, data: st.DataObject
) -> None:
    expected = ExpectedCalls(form, single=True)
    read = parse(data.draw(pieces_of(text)), tools=expected)
    assert read.content == "So."
    assert [call.name for call in read.calls] == ["look_up"]


def test_json_that_names_no_function_is_an_answer() -> None:
    """Where calls have no marks of their own."""
    text = '{"name": "Ada", "parameters": {}}'
    known = ExpectedCalls(LLAMA, names=frozenset(("find",)))
    assert parse([text], tools=known) == Piece(text)
    assert [call.name for call in parse([text], tools=LLAMA).calls] == ["Ada"]


@given(text=st.text('<think/>ol_c{}\n" ', max_size=60), data=st.data())
@pytest.mark.parametrize("form", [HERMES, DEEPSEEK, DEEPSEEK_V3_1, LLAMA])
def test_no_text_is_lost_or_made_up(form: ToolFormat, text: str, data: st.DataObject) -> None:
    """What is no call is content, to the last character."""
    read = parse(data.draw(pieces_of(text)), tools=form)
    if not read.calls:
        assert read.content == text
    whole = parse([text], thinking=False)
    cut = parse(data.draw(pieces_of(text)), thinking=False)
    assert cut == whole


def test_the_family_is_known_by_its_marks() -> None:
    assert tool_format("{% if tools %}<tool_call>{% endif %}") is HERMES
    begin = "<\uff5ctool\u2581call\u2581begin\uff5c>"
    assert tool_format(begin) is DEEPSEEK_V3_1
    assert tool_format(begin + "```json") is DEEPSEEK
    assert tool_format('{{ \'ipython\' }} {"name": x, "parameters": y}') is LLAMA
    assert tool_format("{{ messages }}") is None
