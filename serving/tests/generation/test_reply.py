"""Thoughts, content and calls, told apart however the text is cut into pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.generation.reply import (
    DEEPSEEK,
    HERMES,
    LLAMA,
    Piece,
    ReplyParser,
    ToolFormat,
    tool_format,
)

CALL = json.dumps({"name": "look_up", "arguments": {"patient": "äöü", "days": 3}})
DEEPSEEK_CALLS = (
    "{0}calls\u2581begin{1}{0}call\u2581begin{1}function{0}sep{1}look_up\n```json\n"
    '{{"days": 3}}\n```{0}call\u2581end{1}\n{0}call\u2581begin{1}function{0}sep{1}stop\n```json\n'
    "{{}}\n```{0}call\u2581end{1}{0}calls\u2581end{1}"
).format("<\uff5ctool\u2581", "\uff5c>")


@st.composite
def pieces_of(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def parse(
    pieces: Sequence[str],
    *,
    thinking: bool | None = None,
    tools: ToolFormat | None = None,
    stops: Sequence[str] = (),
) -> Piece:
    parser = ReplyParser(stops, thinking=thinking, tools=tools)
    read = Piece()
    for piece in pieces:
        read += parser.push(piece)
    return read + parser.finish()


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
            "I look.\n\n",
            [("look_up", {"patient": "äöü", "days": 3})] * 2,
        ),
        (HERMES, "no call <tool", "no call <tool", []),
        (HERMES, "<tool_call>nonsense</tool_call>x", "<tool_call>nonsense</tool_call>x", []),
        (HERMES, '<tool_call>{"name": "cut', '<tool_call>{"name": "cut', []),
        (HERMES, "<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
        (DEEPSEEK, DEEPSEEK_CALLS, "", [("look_up", {"days": 3}), ("stop", {})]),
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


@given(text=st.text('<think/>ol_c{}\n" ', max_size=60), data=st.data())
@pytest.mark.parametrize("form", [HERMES, DEEPSEEK, LLAMA])
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
    assert tool_format("<\uff5ctool\u2581call\u2581begin\uff5c>") is DEEPSEEK
    assert tool_format('{{ \'ipython\' }} {"name": x, "parameters": y}') is LLAMA
    assert tool_format("{{ messages }}") is None
