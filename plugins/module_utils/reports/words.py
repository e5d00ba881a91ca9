# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What reports say beside their data: the fields that each language fills in.

A text with names in braces is filled in with :meth:`str.format`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StatusWords:
    """Of the status of a rollout."""

    title: str
    step: str
    share: str
    stable: str
    canary: str
    started: str
    entered: str
    lease: str
    age: str
    reason: str
    as_of: str
    shares: str
    gateway: str
    wanted: str
    read_back: str
    unknown: str
    none: str
    figures: str
    measure: str
    interval: str
    worse: str
    enough: str
    decisions: str
    time: str
    state: str
    decision: str
    states: Mapping[str, str]
    kinds: Mapping[str, str]
    measures: Mapping[str, str]


@dataclass(frozen=True)
class PreflightWords:
    """Of the report of preflight, in a terminal and as a page; ``statuses`` has those of checks."""

    title: str
    passed: str
    one_wrong: str
    wrong: str
    one_to_put_right: str
    to_put_right: str
    all_right: str
    summary: str
    untested: str
    deferred: str
    failed_checks: str
    deferred_checks: str
    untested_checks: str
    all_checks: str
    status: str
    host: str
    check: str
    found: str
    expected: str
    remedy: str
    statuses: Mapping[str, str]


@dataclass(frozen=True)
class ZoneWords:
    """Of the evidence of zones."""

    title: str
    summary: str
    passed: str
    wrong: str
    said_passed: str
    said_wrong: str
    between: str
    cells: str
    from_to: str
    not_tried: str
    through: str
    stopped: str
    without_route: str
    flows: str
    source: str
    target: str
    ports: str
    why: str
    packets: str
    never_used: str
    hosts: str
    host: str
    rules: str
    enforced: str
    not_enforced: str
    default_route: str
    denied: str
    containers: str
    reached: str
    needs: str
    needs_met: str
    needs_tried: str
    outside: str
    none: str
    zones: str
    zone: str
    networks: str
    sum: str
    check: str
    key: str


@dataclass(frozen=True)
class Language:
    """All that reports say in one language.

    ``tag`` is its name by BCP 47, and ``sentences`` what the code says in English, with {} for what is filled in, in this language, with
    {0} and so on.
    """

    tag: str
    status: StatusWords
    preflight: PreflightWords
    zones: ZoneWords
    sentences: Mapping[str, str]
