# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What hosts and networks must have at least (or, for delays and losses, at most): the defaults, and what a site says in their place.

The defaults are the recommended minimum: two A100 with 80 GB, 512 GB of memory, 10 Gigabit Ethernet and less than 1 ms
between rooms. What that does not name (processors, disks) has defaults of this collection's.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..gpu.expectations import ExpectationsError, expectations_of

GROUPS = ("gateway", "inference", "storage", "release")
# The groups whose hosts have a store.
STORE_GROUPS = ("inference", "storage", "release")

DEFAULTS: dict[str, Any] = {
    "cpus": {"inference": 16, "storage": 4, "gateway": 4},
    "memory_gb": {"inference": 512, "storage": 16, "gateway": 8},
    "disk_gb": {"inference": 1000, "storage": 1000},
    "disk_read_mb_s": {"inference": 1000, "storage": 500},
    "nic_mbps": 10000,
    "mtu": 1500,
    "rtt_ms": 1,
    "loss_percent": 0,
    # what TCP gets of 10 Gigabit Ethernet, less some slack
    "bandwidth_mbps": 8000,
    "clock_synchronised": True,
    "gpus": {},
}
_BY_GROUP = ("cpus", "memory_gb", "disk_gb", "disk_read_mb_s")


def problems(given: Mapping[Any, Any]) -> Iterator[tuple[str, str, str]]:
    """Find what cannot be a minimum; gives name, what is wrong, and the remedy."""
    for name, value in given.items():
        wrong = _problem(name, value)
        if wrong:
            yield (str(name), *wrong)


def merged(given: Any) -> dict[str, Any]:
    """The defaults with those that are given in their place; what cannot be a minimum is left out."""
    if not isinstance(given, Mapping):
        return dict(DEFAULTS)
    right = {name: value for name, value in given.items() if not _problem(name, value)}
    return {**DEFAULTS, **right}


def for_host(minimums: Mapping[str, Any], name: str, groups: Iterable[str]) -> float | None:
    """The minimum for a host of these groups: the highest that one of them has, or None."""
    value = minimums[name]
    if not isinstance(value, Mapping):
        return None if value is None else float(value)
    numbers = [float(value[group]) for group in groups if value.get(group) is not None]
    return max(numbers, default=None)


def _problem(name: Any, value: Any) -> tuple[str, str] | None:
    if name not in DEFAULTS:
        close = difflib.get_close_matches(str(name), DEFAULTS, n=1)
        return (
            "there is no such minimum",
            f"Did you mean {close[0]}" if close else f"There are {', '.join(DEFAULTS)}",
        )
    if name == "gpus":
        try:
            expectations_of(value)
        except ExpectationsError as error:
            return str(error), "Correct it; ansible-doc onprem.deepseek.gpu_validate has them all"
        return None
    if value is None:
        return None
    if name == "clock_synchronised":
        return None if value is True else (f"it is {value!r}", "It must be true, or null")
    if name in _BY_GROUP and isinstance(value, Mapping):
        wrong = [group for group in value if group not in GROUPS]
        if wrong:
            return (
                f"there is no group {', '.join(map(repr, wrong))}",
                f"The groups are {', '.join(GROUPS)}",
            )
        if all(number is None or _is_number(number) for number in value.values()):
            return None
    elif _is_number(value):
        return None
    by_group = ", a number for each group" if name in _BY_GROUP else ""
    return f"it is {value!r}", f"It must be a number that is not negative{by_group}, or null"


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )
