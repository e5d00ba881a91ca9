# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requirements of values and hosts, judged all together: what each must be, and what is said where it is not.

Conditions and texts are Ansible's, and are evaluated by what the caller gives (:class:`Evaluator`), a text only once its condition does
not hold: it may be about what is not there otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from .findings import Finding

ITEM = "item"


class RequirementError(Exception):
    """The requirements themselves are written wrongly."""


class EvaluationError(Exception):
    """A condition or a text cannot be evaluated; its text is why, such as C('x' is undefined)."""


class Evaluator(Protocol):
    """Evaluates with the variables of a host and *more*. Raises EvaluationError."""

    def holds(self, condition: Any, more: Mapping[str, Any]) -> bool:
        """Whether an expression, or a boolean, is true."""

    def fill(self, template: Any, more: Mapping[str, Any]) -> Any:
        """Give the value of a template."""


@dataclass(frozen=True)
class Requirement:
    """One requirement: the conditions ``that`` must hold, for each item of ``loop`` if there is one, where all of ``when`` do.

    Otherwise ``says`` tells what is wrong, ``where`` of the host (a variable, file or group), and ``remedy`` what to do. Without ``says``
    it is what the condition itself says. ``covered_by`` names checks of preflight that judge the same.
    """

    that: Sequence[Any]
    says: str = ""
    remedy: str = ""
    where: str = ""
    when: Sequence[Any] = ()
    loop: Any = None
    covered_by: Sequence[str] = ()


@dataclass(frozen=True)
class Unmet(Finding):
    """What is found of a requirement that is not met."""

    covered_by: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Give the finding as one line; a remedy that is missing is in the words of the condition itself."""
        sentences = [f"{self.where}: {self.what}", self.remedy]
        return " ".join(f"{one.rstrip('.')}." for one in sentences if one)

    def as_result(self) -> dict[str, Any]:
        """Give the finding as a part of the action's result."""
        return {**self.as_dict(), "covered_by": list(self.covered_by)}


_LISTS = ("that", "when", "covered_by")
_NAMES = {field.name for field in fields(Requirement)}


def read(described: Any) -> list[Requirement]:
    """Read requirements as they are written in YAML, templates untouched. Raises RequirementError."""
    if not isinstance(described, list):
        raise RequirementError(f"requirements must be a list, not {type(described).__name__}")
    return [_requirement(number, one) for number, one in enumerate(described, start=1)]


def _requirement(number: int, one: Any) -> Requirement:
    if not isinstance(one, Mapping):
        raise RequirementError(f"requirement {number} must be a mapping")
    if unknown := sorted(set(one) - _NAMES):
        raise RequirementError(f"requirement {number} has {', '.join(unknown)}, which is unknown")
    if one.get("that") in (None, "", []):
        raise RequirementError(f"requirement {number} has no condition: that")
    texts = [name for name in ("says", "remedy", "where") if not isinstance(one.get(name, ""), str)]
    if texts:
        raise RequirementError(f"requirement {number}: {', '.join(texts)} must be text")
    listed = {name: _listed(one[name]) for name in _LISTS if name in one}
    return Requirement(**{**one, **listed})


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def judge(requirements: Sequence[Requirement], host: str, evaluator: Evaluator) -> list[Unmet]:
    """All requirements that *host* does not meet, each once; one that cannot be evaluated is not met, and keeps no other from being judged."""
    found: dict[tuple[str, str], Unmet] = {}
    for each in requirements:
        for one in _judge(each, host, evaluator):
            found.setdefault((one.where, one.what), one)
    return list(found.values())


def _judge(one: Requirement, host: str, evaluator: Evaluator) -> Iterator[Unmet]:
    try:
        # in their order: a later one may be about what the first one makes sure of
        if not all(evaluator.holds(condition, {}) for condition in one.when):
            return
        items = [{}] if one.loop is None else _items(evaluator.fill(one.loop, {}))
    except EvaluationError as error:
        yield _unmet(one, host, evaluator, {}, str(error))
        return
    for more in items:
        problem = _problem(one, evaluator, more)
        if problem is not None:
            yield _unmet(one, host, evaluator, more, problem)


def _items(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise EvaluationError(f"the loop is no list but {value!r}")
    return [{ITEM: item} for item in value]


def _problem(one: Requirement, evaluator: Evaluator, more: Mapping[str, Any]) -> str | None:
    """What is wrong; None where the requirement is met."""
    for condition in one.that:
        try:
            if evaluator.holds(condition, more):
                continue
            return str(evaluator.fill(one.says, more)) if one.says else f"{condition} is not so"
        except EvaluationError as error:
            return str(error)
    return None


def _unmet(
    one: Requirement, host: str, evaluator: Evaluator, more: Mapping[str, Any], what: str
) -> Unmet:
    place = _text(one.where, evaluator, more)
    return Unmet(
        where=f"{host}, {place}" if place else host,
        what=" ".join(what.split()).rstrip("."),
        remedy=_text(one.remedy, evaluator, more).rstrip("."),
        covered_by=tuple(one.covered_by),
    )


def _text(template: str, evaluator: Evaluator, more: Mapping[str, Any]) -> str:
    """The text, or nothing where it is about what is not there."""
    try:
        return " ".join(str(evaluator.fill(template, more)).split()) if template else ""
    except EvaluationError:
        return ""
