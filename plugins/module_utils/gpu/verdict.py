# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One thing that was judged of a host's GPUs, and its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

HOST = "host"


@dataclass(frozen=True)
class Check:
    """One thing that was judged; ``subject`` is the host or a GPU, and the remedy is empty where all is well."""

    subject: str
    name: str
    ok: bool
    detail: str
    remedy: str


class Verdict(NamedTuple):
    """What a check found, and what to do if that is not what is expected."""

    ok: bool
    detail: str
    remedy: str


def problems_of(checks: Sequence[Check]) -> list[str]:
    """The checks that failed, in words."""
    return [
        f"{check.subject}: {check.name}: {check.detail} {check.remedy}"
        for check in checks
        if not check.ok
    ]


def check_of(subject: str, name: str, verdict: Verdict) -> Check:
    """A verdict as a check; where all is well there is nothing to do."""
    detail = f"{verdict.detail.rstrip('.')}."
    return Check(subject, name, verdict.ok, detail, "" if verdict.ok else verdict.remedy)
