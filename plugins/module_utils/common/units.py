# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether systemd has the units of this collection as the roles leave them: there, started at boot, running, and their last run succeeded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# What ``systemctl show`` is asked for.
PROPERTIES = ("Id", "LoadState", "UnitFileState", "ActiveState", "Result")
# States of a unit's file in which systemd starts it at boot, or of its own accord.
_STARTED = ("enabled", "enabled-runtime", "alias", "static", "indirect", "generated")
# A timer's service is at work while it activates; reloading units serve.
_RUNNING = ("active", "activating", "reloading")
_REMEDY = "Run onprem.deepseek.site"


def parse(shown: str) -> list[dict[str, str]]:
    """Take apart what ``systemctl show`` prints: one block for each unit, with an empty line between."""
    return [
        dict(line.partition("=")[::2] for line in block.split("\n") if "=" in line)
        for block in shown.strip().split("\n\n")
        if block.strip()
    ]


def problems(shown: str, expected: Sequence[str]) -> Iterator[str]:
    """Find what is wrong with the units that were shown. Those that are *expected*, and all timers, must be started at boot and run."""
    units = {unit.get("Id", ""): unit for unit in parse(shown)}
    for name in expected:
        if units.get(name, {}).get("LoadState") not in ("loaded", "masked"):
            yield f"{name} is not there. {_REMEDY}."
    for name, unit in units.items():
        if unit.get("LoadState") in ("loaded", "masked"):
            yield from _unit_problems(name, unit, name in expected or name.endswith(".timer"))


def _unit_problems(name: str, unit: dict[str, str], must_run: bool) -> Iterator[str]:
    state, active, result = (
        unit.get(key, "") for key in ("UnitFileState", "ActiveState", "Result")
    )
    if must_run and state not in _STARTED:
        yield f"{name} is {state or 'unknown'}, so it does not start when the host does. {_REMEDY}."
    if active == "failed" or result not in ("", "success"):
        yield f"{name} has failed ({result or active}). Look at: journalctl -u {name}"
    elif must_run and active not in _RUNNING:
        yield f"{name} is {active or 'unknown'}. {_REMEDY}."
