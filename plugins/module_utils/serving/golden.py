# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Golden prompts of a release: questions, each with what an answer must have in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Of what is shown: enough to recognise it.
PROMPT_CHARACTERS = 80
ANSWER_CHARACTERS = 200


def problems(asked: Sequence[Mapping[str, Any]], answers: Sequence[Any]) -> Iterator[str]:
    """Say of each answer that lacks what its question wants, what it wants and what the answer says instead.

    *asked* are mappings with ``prompt`` and ``says``, and *answers* bodies of chat completions in the same order; one that is none
    says nothing. Raises ValueError where there are not as many of both.
    """
    if len(asked) != len(answers):
        raise ValueError(f"{len(asked)} questions have {len(answers)} answers")
    for question, answer in zip(asked, answers):
        said = _content(answer)
        if question["says"] not in said:
            prompt = _short(question["prompt"], PROMPT_CHARACTERS)
            found = f'"{_short(said, ANSWER_CHARACTERS)}"' if said else "nothing"
            yield f"""to "{prompt}" it should say "{question["says"]}", and says {found}"""


def _content(answer: Any) -> str:
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) else ""


def _short(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 3] + "..."
