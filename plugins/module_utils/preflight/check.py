# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One check of preflight, and what is known of the hosts and the network that are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..inventory import requirements, site_variables

OK, FAILED = "ok", "failed"
# What could not be judged now, and what the site does not want to be judged.
DEFERRED, SKIPPED = "deferred", "skipped"
# The site accepts what no test has shown.
UNTESTED = "untested"

INVENTORY = "inventory"
# Why nothing is known of a host from itself.
DROPPED = "it dropped out of the run"


@dataclass(frozen=True)
class Check:
    """One thing that was judged: where, what, whether it is met, what was found and expected, and what to do if it is not."""

    host: str
    name: str
    status: str
    found: str
    expected: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Host(site_variables.Host):
    """What is known of one host: from the inventory, and from the host itself.

    ``asked`` is whether the inventory says how to reach it. ``facts`` is None when the host was not asked, or did not answer; ``error`` says
    why, and ``broken`` what ended its examination. ``info`` is the result of module host_info, and ``info_error`` why there is none.
    ``published`` are the labels of the releases that it holds already, ``checkpoints`` the results of module checkpoint_info for each
    release, with the release itself as ``__preflight_entry``, and ``zones`` and ``rollouts`` (None without a record) what others found.
    ``refusals`` are what the roles would refuse (``role``, ``task`` and what it ``says``, with the ``findings`` of action require), and
    ``role_problems`` what is wrong with the roles' variables (``name``, ``what`` and ``remedy``). ``gpus`` are checks of module
    gpu_validate, None where it did not run; ``custody`` is the result of module key_custody_info; ``listen``, ``probes`` and ``transfers``
    are results of module network_probe.
    """

    asked: bool = True
    facts: Mapping[str, Any] | None = None
    error: str = ""
    broken: Sequence[str] = ()
    info: Mapping[str, Any] | None = None
    info_error: str = ""
    published: Sequence[str] = ()
    checkpoints: Sequence[Mapping[str, Any]] = ()
    refusals: Sequence[Mapping[str, Any]] = ()
    role_problems: Sequence[Mapping[str, str]] = ()
    zones: Sequence[str] = ()
    rollouts: Sequence[Mapping[str, str]] | None = None
    gpus: Sequence[Mapping[str, Any]] | None = None
    custody: Mapping[str, Any] | None = None
    listen: Mapping[str, str] = field(default_factory=dict)
    probes: Sequence[Mapping[str, Any]] = ()
    transfers: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Network:
    """How the network was measured: ``off``, ``latency`` or ``full``, on which port, and how many turns of transfers there were."""

    mode: str = "latency"
    port: int = 0
    turns: int = 0


Groups = Mapping[str, Sequence[str]]


def groups_of(name: str, groups: Groups) -> list[str]:
    return [group for group in requirements.GROUPS if name in groups.get(group, ())]


def judge(check: Check, met: bool | None) -> Check:
    """The check with its status; None is for what the site does not want to be judged."""
    if met is None:
        return Check(check.host, check.name, SKIPPED, check.found)
    if met:
        return Check(check.host, check.name, OK, check.found, check.expected)
    return Check(check.host, check.name, FAILED, check.found, check.expected, check.remedy)


def at_least(
    name: str,
    what: tuple[str, str],
    found: float | None,
    least: float | None,
    remedy: str,
    unknown: str = "",
) -> Check:
    """Compare a number with its minimum; *what* is the check's name and the unit. An unknown number is below every minimum."""
    check, unit = what
    says = unknown or "unknown" if found is None else f"{number(found)} {unit}".strip()
    expected = "" if least is None else f"at least {number(least)} {unit}".strip()
    met = None if least is None else found is not None and found >= least
    hint = f"{remedy}, or set deepseek_minimums.{check} to what you have (null: not judged)"
    return judge(Check(name, check, "", says, expected, hint), met)


def number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if abs(value) >= 1 else f"{value:.3g}"
