# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units that do not start at boot, do not run or have failed are found, timers too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ansible_collections.onprem.deepseek.plugins.filter.unit_problems import FilterModule

ROOT = Path(__file__).resolve().parents[5]
TIMER = "deepseek-store-scrub.timer"
SERVICE = "deepseek-store-scrub.service"


def shown(name: str, **changes: str) -> str:
    unit = {
        "Id": name,
        "LoadState": "loaded",
        "UnitFileState": "enabled" if name.endswith(".timer") else "static",
        "ActiveState": "active" if name.endswith(".timer") else "inactive",
        "Result": "success",
        **changes,
    }
    return "\n".join(f"{key}={value}" for key, value in unit.items()) + "\n"


def found(*units: str, expected: tuple[str, ...] = (TIMER,)) -> list[str]:
    told: list[str] = FilterModule().filters()["unit_problems"]("\n".join(units), expected)
    return told


def test_units_as_the_roles_leave_them_are_right() -> None:
    assert found(shown(TIMER), shown(SERVICE)) == []
    assert found(shown(TIMER), shown(SERVICE, ActiveState="activating")) == []
    assert found("", expected=()) == []


@pytest.mark.parametrize(
    ("units", "says"),
    [
        ([shown(TIMER, UnitFileState="disabled")], "is disabled, so it does not start when"),
        ([shown(TIMER, ActiveState="inactive")], "is inactive"),
        ([shown(TIMER, UnitFileState="masked", LoadState="masked")], "is masked, so it does not"),
        ([shown(TIMER, LoadState="not-found", UnitFileState="")], "is not there"),
        ([], "is not there"),
        ([shown(TIMER), shown(SERVICE, Result="exit-code")], "has failed (exit-code)"),
        ([shown(TIMER), shown(SERVICE, ActiveState="failed", Result="")], "has failed (failed)"),
        ([shown(TIMER), shown(SERVICE, ActiveState="failed", Result="oom-kill")], "(oom-kill)"),
        # one that no list names
        ([shown(TIMER), shown("deepseek-other.timer", ActiveState="inactive")], "other.timer is"),
    ],
)
def test_what_is_wrong_with_a_unit(units: list[str], says: str) -> None:
    (line,) = found(*units)
    assert says in line


def test_disabled_and_stopped_is_told_as_both() -> None:
    """What systemctl disable --now leaves."""
    stopped = shown(TIMER, UnitFileState="disabled", ActiveState="inactive")
    assert len(found(stopped)) == 2


def test_verify_expects_what_the_roles_start_at_boot() -> None:
    """Kind: a unit that a role starts and verification does not ask for."""
    plays = yaml.safe_load((ROOT / "playbooks/verify.yml").read_text())
    (listed,) = [
        [play["vars"]["verify_units"], play["vars"]["verify_units_enforced"]]
        for play in plays
        if "verify_units" in play.get("vars", {})
    ]
    expected = set(re.findall(r"[\w-]+\.(?:service|timer|target)", str(listed)))
    templates = {
        path.name.removesuffix(".j2") for path in ROOT.glob("roles/*/templates/deepseek-*.timer.j2")
    }
    templates.discard("deepseek-store.timer")
    commands = yaml.safe_load((ROOT / "roles/model_storage/vars/main.yml").read_text())
    templates |= {f"deepseek-store-{name}.timer" for name in commands["__model_storage_commands"]}
    assert templates <= expected
