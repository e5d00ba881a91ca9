# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers to golden prompts, and what is said of those that are not as they must be."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.filter.golden_problems import golden_problems

GOLDEN = [{"prompt": "What is 6 times 7?", "says": "42"}, {"prompt": "Who are you?", "says": "I"}]


def answer(content: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


def test_right_answers_have_no_problems() -> None:
    assert golden_problems([answer("It is 42."), answer("I am a model")], GOLDEN) == []


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (answer("It is 41."), '"It is 41."'),
        (answer(None), "nothing"),
        (answer([{"type": "text", "text": "42"}]), "nothing"),
        ({"choices": []}, "nothing"),
        ({"error": {"message": "42"}}, "nothing"),
        ("42", "nothing"),
        (answer("x" * 1000), f'"{"x" * 197}..."'),
    ],
)
def test_what_an_answer_lacks_and_says_instead_is_told(wrong: Any, found: str) -> None:
    said = golden_problems([wrong, answer("I")], GOLDEN)
    assert said == [f'to "What is 6 times 7?" it should say "42", and says {found}']


def test_answers_that_are_missing_are_no_success() -> None:
    with pytest.raises(AnsibleFilterError, match="2 questions have 1 answers"):
        golden_problems([answer("42")], GOLDEN)
