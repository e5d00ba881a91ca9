# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of plays, tasks and handlers, which AWX and logs show: a verb of a list, and its object."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from glossary_words import ruled_out

ROOT = Path(__file__).resolve().parents[2]
ROLLOUT = sorted(
    [
        *ROOT.glob("roles/*/tasks/*.yml"),
        *ROOT.glob("roles/*/handlers/*.yml"),
        *ROOT.glob("playbooks/**/*.yml"),
    ]
)
TESTS = sorted(
    path
    for pattern in ("tests/lab/*.yml", "molecule/*/*.yml", "molecule/*/tasks/*.yml")
    for path in ROOT.glob(pattern)
    if path.name != "molecule.yml"
)
LIST = """
Add Apply Assert Block Build Check Collect Commit Compare Compile Compute Configure Confirm Copy
Count Create Delete Disable Distribute Download Drain Enable Enforce Examine Fail Fetch Find Gather
Generate Group Install Issue Judge List Load Mark Measure Mount Open Pack Plan Prepare Probe Promote
Publish Pull Read Record Refuse Reload Remove Replace Replicate Report Request Require Reset Restart
Restore Restrict Retire Return Revoke Rotate Run Select Send Set Show Sign Simulate Start Stop
Template Test Transfer Unload Update Upgrade Validate Verify Wait Write
"""
VERBS = frozenset(LIST.split())
# What is done in scenarios alone.
TEST_LIST = """
Attach Change Damage Detach Empty Fill Kill Limit Move Overwrite Pause Repair Resume Serve Truncate
Try Unmount
"""
TEST_VERBS = VERBS | frozenset(TEST_LIST.split())
# Beside the words of glossary_words.
BANNED = re.compile(r"\b(everybody|look|nobody|somebody|them|the line)\b", re.IGNORECASE)
SECTIONS = ("pre_tasks", "tasks", "post_tasks", "handlers", "block", "rescue", "always")
# A name of an object says more than a pronoun in a list of a thousand lines.
PRONOUN = re.compile(r"\b(it|this)$")


def named(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from named(item)
    elif isinstance(value, dict):
        if "name" in value:
            yield value["name"]
        for section in (
            "pre_tasks",
            "tasks",
            "post_tasks",
            "handlers",
            "block",
            "rescue",
            "always",
        ):
            yield from named(value.get(section, []))


def words(name: str) -> str:
    """The name without what a template adds, which is an object."""
    return re.sub(r"\{\{.*?\}\}", "X", name)


@pytest.mark.parametrize("path", ROLLOUT + TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_begin_with_a_verb_and_end_with_an_object(path: Path) -> None:
    verbs = TEST_VERBS if path in TESTS else VERBS
    names = list(named(yaml.safe_load(path.read_text(encoding="utf-8"))))
    wrong = [
        name
        for name in names
        if not name.startswith("{{")
        and (
            words(name).split()[0].strip(",") not in verbs
            or (len(words(name).split()) == 1 and path.parent.name != "tasks")
            or BANNED.search(name)
            or [*ruled_out(name)]
            or PRONOUN.search(name)
        )
    ]
    assert not wrong
