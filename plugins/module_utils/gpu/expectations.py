# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host's GPUs must be like: from what a playbook says to types. Whether they are so is judged in :mod:`gpu_checks`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .snapshot import THROTTLE_REASONS


@dataclass(frozen=True)
class Expectations:
    """The default is the recommended minimum, two A100 with 80 GB, in good health; None is not judged."""

    count: int | None = 2
    products: tuple[str, ...] | None = None
    memory_gb: float | None = 80
    compute_capability: str | None = "8.0"
    driver: str | None = "580"
    same_driver: bool | None = True
    ecc: bool | None = True
    ecc_volatile_uncorrected: int | None = 0
    ecc_aggregate_uncorrected: int | None = 0
    row_remap: bool | None = True
    pcie_generation: int | Literal["max"] | None = "max"
    pcie_width: int | Literal["max"] | None = "max"
    nvlinks: int | Literal["all"] | None = "all"
    fabric: bool | None = True
    throttle_reasons: tuple[str, ...] | None = ("gpu_idle",)
    temperature_celsius: float | None = None
    temperature_margin_celsius: float | None = 10
    power_limit_watts: float | Literal["default"] | None = "default"
    persistence: bool | None = True
    mig: bool | None = False
    processes: tuple[str, ...] | None = (
        "deepseek-inference@*.service",
        "deepseek-upstream.service",
    )
    xids: tuple[int, ...] | None = ()


class ExpectationsError(ValueError):
    """Everything that is wrong with what was expected."""


# What is expected: from what a playbook says to types.


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    number = float(value)
    # neither infinite nor NaN: no comparison with those says anything
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def _whole(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _flag(value: Any) -> bool:
    known = {"true": True, "yes": True, "false": False, "no": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    raise ValueError


def _version(value: Any) -> str:
    text = value if isinstance(value, str) else str(_whole(value))
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,3}", text):
        raise ValueError
    return text


def _patterns(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(
        isinstance(item, str) and item for item in items
    ):
        raise ValueError
    return tuple(items)


def _reasons(value: Any) -> tuple[str, ...]:
    reasons = _patterns(value)
    if not set(reasons) <= set(THROTTLE_REASONS.values()):
        raise ValueError
    return reasons


def _wholes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError
    return tuple(_whole(item) for item in value)


def _or(word: str, kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: word if value == word else kind(value)


# What makes a value of what a playbook says, or raises ValueError; and what that must be, in words.
Kind = tuple[Callable[[Any], Any], str]

COUNT: Kind = (_whole, "a whole number")
AMOUNT: Kind = (_number, "a number that is not negative")
MODE: Kind = (_flag, "true or false")
_VERSION: Kind = (_version, "a version in quotes, such as '580.65'")
_NAMES: Kind = (_patterns, "a list of names or patterns")
REASONS: Kind = (_reasons, f"a list of {', '.join(THROTTLE_REASONS.values())}")
WHOLES: Kind = (_wholes, "a list of whole numbers")


def amount_or(word: str) -> Kind:
    """A number, or a word that stands for one."""
    return _or(word, _number), f"a number or {word!r}"


_KINDS: dict[str, Kind] = {
    "count": COUNT,
    "products": _NAMES,
    "memory_gb": AMOUNT,
    "compute_capability": _VERSION,
    "driver": _VERSION,
    "same_driver": MODE,
    "ecc": MODE,
    "ecc_volatile_uncorrected": COUNT,
    "ecc_aggregate_uncorrected": COUNT,
    "row_remap": MODE,
    "pcie_generation": (_or("max", _whole), "a whole number or 'max'"),
    "pcie_width": (_or("max", _whole), "a whole number or 'max'"),
    "nvlinks": (_or("all", _whole), "a whole number or 'all'"),
    "fabric": MODE,
    "throttle_reasons": REASONS,
    "temperature_celsius": AMOUNT,
    "temperature_margin_celsius": AMOUNT,
    "power_limit_watts": amount_or("default"),
    "persistence": MODE,
    "mig": MODE,
    "processes": _NAMES,
    "xids": WHOLES,
}


def expectations_of(given: Any) -> Expectations:
    """The default expectations with those that are given in their place; raises ExpectationsError."""
    return replace(Expectations(), **values_of(given, _KINDS))


def values_of(given: Any, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Expectations that are given, with their types; raises ExpectationsError with everything that is wrong."""
    if not isinstance(given, Mapping):
        raise ExpectationsError(f"expectations are {given!r}, and must be a mapping")
    values: dict[str, Any] = {}
    problems = []
    for name, value in given.items():
        if name not in kinds:
            problems.append(f"there is no {name!r}; there are {', '.join(kinds)}")
            continue
        kind, says = kinds[name]
        try:
            values[name] = None if value is None else kind(value)
        except (ValueError, OverflowError):
            problems.append(f"{name} is {value!r}, and must be {says}, or null")
    if problems:
        raise ExpectationsError("expectations: " + "; ".join(problems))
    return values
