# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each role says of itself in ``meta/exports.yml``: its flows, its metrics and the site variables that it reads.

Whatever must know this of all roles collects it here: zones, preflight, and the reference. Lookup ``role_exports`` fills in the templates.

A flow is as in ``deepseek_flows``, and may be ``needed`` (the site does not serve without it) and ``measured`` (preflight measures the
network along it). One with ``along: measured`` has no endpoints of its own: it is wherever a flow is measured.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .role_variables import ROLES, read_yaml

# Every host is in it: the controller comes from there.
MANAGEMENT = "management"
KINDS = ("flows", "metrics", "site_variables")


@functools.cache
def of_roles(roles: Path = ROLES) -> dict[str, Mapping[str, Any]]:
    """Read what each role exports, by its name; raises OSError."""
    names = sorted(path.name for path in roles.iterdir() if path.is_dir())
    return {name: read_yaml(roles / name / "meta/exports.yml") for name in names}


def flows(roles: Path = ROLES) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each flow with the role that exports it; ``from`` and ``to`` are lists, ``needed`` and ``measured`` are there."""
    listed = [
        (role, flow) for role, said in of_roles(roles).items() for flow in said.get("flows", ())
    ]
    for role, flow in listed:
        if flow.get("along") != "measured":
            yield role, _flow(flow, flow)
            continue
        for _role, other in listed:
            if other.get("measured"):
                yield role, _flow(flow, other)


def _flow(flow: Mapping[str, Any], ends: Mapping[str, Any]) -> dict[str, Any]:
    made = {key: flow[key] for key in ("protocol", "ports", "why") if key in flow}
    for side in ("from", "to"):
        made[side] = [ends[side]] if isinstance(ends[side], str) else list(ends[side])
    return {**made, "needed": bool(flow.get("needed")), "measured": bool(flow.get("measured"))}


@functools.cache
def measured(roles: Path = ROLES) -> tuple[tuple[str, str, str], ...]:
    """Give the groups of hosts between which preflight measures: who asks, who answers, over which zone."""
    return tuple(
        (source.partition("/")[2], group, zone)
        for _role, flow in flows(roles)
        if flow["measured"]
        for source in flow["from"]
        for zone, _slash, group in (target.partition("/") for target in flow["to"])
    )


@functools.cache
def zones_of_groups(roles: Path = ROLES) -> dict[str, tuple[str, ...]]:
    """Give the zones that a host of each group must have an address in, since a needed flow begins or ends there."""
    found: dict[str, dict[str, None]] = {}
    for _role, flow in flows(roles):
        for end in [*flow["from"], *flow["to"]] if flow["needed"] else ():
            zone, _slash, group = end.partition("/")
            if group:
                found.setdefault(group, {MANAGEMENT: None})[zone] = None
    return {group: tuple(zones) for group, zones in found.items()}
