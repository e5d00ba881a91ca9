"""The published tokenizers that other tests build on are what their families say."""

from __future__ import annotations

from typing import Any

import pytest
from real_tokenizers import FAMILIES, RealTokenizers, deepseek_mark

SAID: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is the patient?"},
]
CALLS_BEGIN = deepseek_mark("tool", "calls", "begin")
# marks, and whether the family has them as tokens
MARKS: dict[str, dict[str, bool]] = {
    "qwen2.5": {"<tool_call>": True, "<think>": False},
    "qwen3": {"<tool_call>": True, "<think>": True},
    "hermes": {"<tool_call>": True, "<|im_end|>": True, "<think>": False},
    "llama3.1": {"<tool_call>": False, "<|python_tag|>": True, "<|eom_id|>": True},
    "deepseek-v3": {CALLS_BEGIN: True, "<think>": False},
    "deepseek-r1": {CALLS_BEGIN: True, "<think>": True},
    "deepseek-v3.1": {CALLS_BEGIN: True, "<think>": True},
    "deepseek-r1-distill-qwen": {CALLS_BEGIN: False, "<think>": True},
    "deepseek-r1-0528-qwen3-8b": {CALLS_BEGIN: False, "<think>": True},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_its_marks_and_its_template(
    real_tokenizers: RealTokenizers, name: str
) -> None:
    chat = real_tokenizers.chat(name)
    assert {mark: chat.token(mark) is not None for mark in MARKS[name]} == MARKS[name]
    prompt = chat.prompt(SAID)
    assert chat.decode(prompt) == chat.text(SAID)
    assert FAMILIES[name].begin in chat.decode(prompt[:1])
    assert chat.token(FAMILIES[name].end) is not None
