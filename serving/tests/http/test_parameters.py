"""docs/reference/api.md has the parameters of the schema, and says what becomes of each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest
from support import ROOT

from deepseek_serving.http.schema.accepted import ChatAccepted, CompletionAccepted
from deepseek_serving.http.schema.body import Body, OnlyAt
from deepseek_serving.http.schema.chat import ChatRequest
from deepseek_serving.http.schema.completions import CompletionRequest
from deepseek_serving.http.schema.sampled import StreamOptions

PAGE = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
KINDS: Mapping[str, tuple[type[Body], type[Body]]] = {
    "chat": (ChatRequest, ChatAccepted),
    "completions": (CompletionRequest, CompletionAccepted),
}


def rows(head: str) -> list[list[str]]:
    lines = PAGE.split(head)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`([a-z_0-9]+)`", cell)


def accepted(of: str) -> dict[str, str]:
    """What the second table says of parameters: without effect, or only what."""
    found = {}
    for cell, kinds, text in rows("| parameter | of | accepted |"):
        if of in kinds.split(", "):
            parts = [
                "without effect" if "without effect" in part else part for part in text.split("; ")
            ]
            parameters = names(cell)
            if kinds == "chat, completions" and parameters == ["add_special_tokens"]:
                parts = [parts[["chat", "completions"].index(of)]]
            shared = len(parts) < len(parameters) or parts[0] == "without effect"
            for number, name in enumerate(parameters):
                found[name] = parts[0] if shared else parts[number]
    return found


@pytest.mark.parametrize("of", KINDS)
def test_every_parameter_has_its_row_and_every_row_its_parameter(of: str) -> None:
    schema, _accepted = KINDS[of]
    column = 1 + list(KINDS).index(of)
    done = {name for row in rows("| parameter | chat | completions | |") if row[column]
            for name in names(row[0])}  # fmt: skip
    taken = set(accepted(of))
    assert not done & taken
    assert done | taken == set(schema.model_fields)


@pytest.mark.parametrize("of", KINDS)
def test_what_is_accepted_only_at_some_values_is_said_with_them(of: str) -> None:
    schema, base = KINDS[of]
    said = accepted(of)
    for name, field in schema.model_fields.items():
        only = next((mark for mark in field.metadata if isinstance(mark, OnlyAt)), None)
        if only is None:
            assert name not in base.model_fields or said[name] == "without effect", name
            continue
        assert said[name].startswith("only "), name
        for value in only.accepted or (None,):
            assert json.dumps(value) in said[name], name


def test_options_of_a_stream_have_a_row() -> None:
    (row,) = (
        row for row in rows("| parameter | chat | completions | |") if "stream_options" in row[0]
    )
    assert set(names(row[3])) - {"false"} == set(StreamOptions.model_fields)
