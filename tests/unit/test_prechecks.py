# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a role's precheck would refuse later, preflight refuses before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.role_variables import (
    CONTROLLER_FILES,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.hosts import COVERED

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "roles"
ASKS = "preflight_asks"
REFUSING = ("ansible.builtin.assert", "ansible.builtin.fail")
REQUIRE = "onprem.deepseek.require"
# Of the site, whose filter has all that is wrong with it.
TOLD_TOGETHER = {
    "network_segmentation": "Stop with everything that is wrong, before anything is changed"
}


def tasks_of(file: Path) -> Iterator[dict[str, Any]]:
    def flat(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for task in tasks:
            yield task
            for part in ("block", "rescue", "always"):
                yield from flat(task.get(part, []))

    yield from flat(yaml.safe_load(file.read_text()) or [])


def prechecks() -> dict[str, list[dict[str, Any]]]:
    """The tasks of each role's precheck, and of the files that it includes."""
    found = {}
    for first in sorted(ROLES.glob("*/tasks/precheck.yml")):
        tasks = list(tasks_of(first))
        for other in sorted(first.parent.glob("*precheck_*.yml")) + sorted(
            first.parent.glob("*_precheck.yml")
        ):
            tasks += tasks_of(other)
        found[first.parents[1].name] = tasks
    return found


def test_preflight_asks_every_role_that_can_refuse() -> None:
    variables = yaml.safe_load((ROLES / "preflight/vars/main.yml").read_text())
    names = variables["__preflight_roles"] + variables["__preflight_roles_of_releases"]
    asked = set(re.findall(r"'([a-z_]+)'", names))
    collect = (ROLES / "preflight/tasks/collect.yml").read_text()
    asked |= set(re.findall(r"onprem\.deepseek\.(\w+)\n\s+tasks_from: precheck", collect))
    assert set(prechecks()) <= asked


def requirements() -> Iterator[tuple[str, dict[str, Any]]]:
    """The requirements of each role."""
    for role, tasks in prechecks().items():
        for task in tasks:
            if REQUIRE in task:
                for one in task["vars"][task[REQUIRE]["requirements"]]:
                    yield role, one


def test_a_precheck_tells_all_that_is_wrong_at_once() -> None:
    """A task that judges one thing would keep the others from being told."""
    alone = [
        (role, task["name"])
        for role, tasks in prechecks().items()
        for task in tasks
        if any(module in task for module in REFUSING)
    ]
    assert dict(alone) == TOLD_TOGETHER
    times = [sum(REQUIRE in task for task in tasks) for tasks in prechecks().values()]
    assert times == [1] * len(times)


def test_preflight_asks_for_nothing_that_other_roles_will_have_made() -> None:
    """What check mode leaves out since it would have been made by then, preflight leaves out."""
    conditions = [
        (role, str(task.get("when", ""))) for role, tasks in prechecks().items() for task in tasks
    ]
    conditions += [(role, str(one.get("when", ""))) for role, one in requirements()]
    left_out = [(role, one) for role, one in conditions if "ansible_check_mode" in one]
    assert len(left_out) >= 6
    assert [one for one in left_out if ASKS not in one[1]] == []


def test_every_refusal_is_told_in_words_with_a_remedy() -> None:
    """Where a filter has the words, they are those of its error."""
    wrong = [
        (role, one)
        for role, one in requirements()
        if ("says" in one or "that" not in one) and not one.get("remedy")
    ]
    assert wrong == []
    in_own_words = [one["that"] for _role, one in requirements() if "says" not in one]
    assert [words.partition(" ")[0] for words in in_own_words] == [
        "inference_releases",
        "inference_workers",
    ]


def test_what_preflight_judges_itself_is_what_roles_refuse() -> None:
    names = {task["name"] for tasks in prechecks().values() for task in tasks}
    assert set(COVERED) <= names


def test_what_covers_a_requirement_is_a_check_of_preflight() -> None:
    package = ROOT / "plugins/module_utils/preflight"
    code = "".join(path.read_text() for path in sorted(package.glob("*.py")))
    named = {name for _role, one in requirements() for name in one.get("covered_by", ())}
    assert named >= {"system", "groups", "address"}
    assert [name for name in sorted(named) if f'"{name}"' not in code] == []


def test_every_file_that_a_role_takes_from_the_controller_is_looked_for() -> None:
    """Kind: a file that is found to be missing in the middle of a rollout."""
    wanted = set()
    for file in ROLES.glob("*/tasks/*.yml"):
        for task in tasks_of(file):
            copied = task.get("ansible.builtin.copy") or {}
            source = str(copied.get("src", ""))
            if copied.get("remote_src") or "delegate_to" in task:
                continue
            items = [str(item) for item in task.get("loop") or [] if isinstance(task["loop"], list)]
            texts = [source, *items] if "item" in source else [source]
            for text in texts:
                wanted |= set(
                    re.findall(r"\b(?:gateway|inference|tls|model_\w+?)_\w+_file\b", text)
                )
    assert wanted
    assert wanted <= set(CONTROLLER_FILES)
