# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Surveys of job templates, made of argument specifications: what AWX asks is what the code takes.

AWX compares a survey as a whole, so every field of a question is written. It has no question for true or false, and none for a list that
is free: these are a choice of two, and a text with one element in each line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# What AWX takes as the bounds of a text (characters) and of a number.
_TEXT, _LINES, _NUMBER = (0, 1024), (0, 4096), (-(2**31), 2**31 - 1)
_TRUTH = ("true", "false")
# Type of an option: type of its question, its bounds, and the types of its answers.
_QUESTIONS: dict[str, tuple[str, tuple[int, int], tuple[type, ...]]] = {
    "str": ("text", _TEXT, (str,)),
    "path": ("text", _TEXT, (str,)),
    "int": ("integer", _NUMBER, (int,)),
    "float": ("float", _NUMBER, (int, float)),
    "bool": ("multiplechoice", (0, 0), (str,)),
    "list": ("textarea", _LINES, (str,)),
}
_TYPES = {name: types for name, _bounds, types in _QUESTIONS.values()}
_TYPES.update(multiplechoice=(str,), multiselect=(list,))


def survey(title: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Make the survey that asks for these options, in their order; raises ValueError for one that no survey can ask for."""
    spec = [_question(name, option) for name, option in options.items()]
    return {"name": "", "description": title, "spec": spec} if spec else {}


def _question(name: str, option: Mapping[str, Any]) -> dict[str, Any]:
    kind = option.get("type", "str")
    if kind not in _QUESTIONS or option.get("elements", "str") != "str":
        raise ValueError(f"{name} is {kind}, which no question of a survey can ask for")
    question, (least, most), _types = _QUESTIONS[kind]
    choices = [str(one) for one in option.get("choices", ())]
    if kind == "bool":
        choices = list(_TRUTH)
    elif choices:
        question, least, most = "multiselect" if kind == "list" else "multiplechoice", 0, 0
    return {
        "question_name": name,
        "question_description": _words(option.get("description", "")),
        "variable": name,
        "type": question,
        "required": bool(option.get("required")),
        "default": _default(kind, option.get("default")),
        "choices": choices,
        "min": least,
        "max": most,
        "new_question": True,
    }


def _default(kind: str, value: Any) -> Any:
    if value is None:
        return ""
    if kind == "bool":
        return _TRUTH[not value]
    if kind == "list":
        return "\n".join(map(str, value))
    return value if kind in ("int", "float") else str(value)


def _words(description: Any) -> str:
    lines = [description] if isinstance(description, str) else description
    return " ".join(" ".join(map(str, lines)).split())


def answer_problems(spec: Mapping[str, Any], answers: Mapping[str, Any]) -> Iterator[str]:
    """Find what AWX would refuse of the answers to a survey: of unknown questions, of another type, not a choice."""
    questions = {one["variable"]: one for one in spec.get("spec", ())}
    for name, value in answers.items():
        question = questions.get(name)
        if question is None:
            yield f"{name} is no question of the survey"
            continue
        types = _TYPES[question["type"]]
        if not isinstance(value, types) or isinstance(value, bool):
            yield f"{name} is {value!r}, and its question takes {question['type']}"
        elif question["choices"] and not set(_chosen(value)) <= set(question["choices"]):
            yield f"{name} is {value!r}, and must be of {', '.join(question['choices'])}"


def _chosen(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def unanswered(spec: Mapping[str, Any], answers: Mapping[str, Any]) -> list[str]:
    """The required questions that have neither an answer nor a default."""
    return [
        question["variable"]
        for question in spec.get("spec", ())
        if question["required"]
        and question["default"] == ""
        and question["variable"] not in answers
    ]
