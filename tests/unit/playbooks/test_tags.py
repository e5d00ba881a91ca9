# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""--tags takes one role, or all roles up to one step, and leaves out no precheck and no verdict."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked_playbooks import forked
from played import command, environment

ROOT = Path(__file__).resolve().parents[3]
# A part of the step that includes it.
PARTS = {"host_packages", "host_tools"}
ROLES = sorted({path.parents[1].name for path in ROOT.glob("roles/*/tasks/main.yml")} - PARTS)
BOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
STEPS = ("install", "configure", "run")
ALL = {"precheck", *STEPS}
ASKED = ("gateway", "install", "run")
# Applied role by role.
TAKES_TAGS = {"site", "model_publish", "next_steps", "tls_reload", "tls_renew", "zones_enforce"}
# Ends with a verdict on what was asked, or begins with one: test_verdicts.py.
REFUSES_TAGS = {
    "gpu_burn_in",
    "model_retire",
    "storage_health",
    "storage_replace_host",
    "storage_upgrade",
    "verify",
}
IMPORT = "ansible.builtin.import_playbook"
INCLUDE = "ansible.builtin.include_role"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def tags_of(item: dict[str, Any]) -> set[str]:
    found = item.get("tags", [])
    return {found} if isinstance(found, str) else set(found)


def expected(role: str, file: str) -> set[str]:
    """The tags of a step, by the name of its file: those of all steps from it on."""
    if role == "preflight":
        return {role, "always"}
    if file == "precheck":
        return {role, *ALL}
    if file in ("install", "remove"):
        return {role, *STEPS}
    return {role, *STEPS[STEPS.index("configure") if file == "configure" else -1 :]}


def files_of(item: dict[str, Any]) -> list[str]:
    tasks = item.get("block", [item])
    return [
        str(task[action]).removesuffix(".yml")
        for task in tasks
        for action in ("ansible.builtin.import_tasks", "ansible.builtin.include_tasks")
        if action in task
    ]


@pytest.mark.parametrize("role", ROLES)
def test_each_step_of_a_role_has_its_tags(role: str) -> None:
    for item in load(ROOT / "roles" / role / "tasks/main.yml"):
        files = files_of(item)
        assert files, item["name"]
        for file in files:
            assert tags_of(item) == expected(role, file), item["name"]


def test_a_task_that_is_included_keeps_the_tags() -> None:
    """Kind: what is included has no tags of its include, only those of the block around it."""
    for role in ROLES:
        for item in load(ROOT / "roles" / role / "tasks/main.yml"):
            assert not any(action.startswith("ansible.builtin.include_") for action in item), role


def test_every_playbook_says_what_tags_do_to_it() -> None:
    assert set(BOOKS) >= TAKES_TAGS | REFUSES_TAGS
    for book in sorted(set(BOOKS) - TAKES_TAGS - REFUSES_TAGS):
        for play in load(ROOT / "playbooks" / f"{book}.yml"):
            assert "always" in tags_of(play), (book, play["name"])


@pytest.mark.parametrize("book", sorted(TAKES_TAGS))
def test_every_role_of_a_playbook_can_be_asked_for(book: str) -> None:
    for play in load(ROOT / "playbooks" / f"{book}.yml"):
        if IMPORT in play:
            assert Path(play[IMPORT]).stem in TAKES_TAGS | {"preflight"}, play["name"]
        for task in play.get("tasks", []):
            tags = tags_of(task) | tags_of(play)
            if INCLUDE not in task:
                assert tags == {"always"} or "run" in tags, task["name"]
                continue
            role = task[INCLUDE]["name"].rpartition(".")[2]
            if "tasks_from" not in task[INCLUDE]:
                # the role's own steps have theirs, which the include must not hide
                assert tags == {role, *ALL}, task["name"]
                assert not tags_of(play), task["name"]
            elif task[INCLUDE]["tasks_from"] == "precheck":
                assert tags == {role, *ALL}, task["name"]
            else:
                assert tags == {role, "run"}, task["name"]


@pytest.fixture(scope="module")
def listed() -> dict[str, str]:
    """What is listed of the site: its tags as "", and its tasks by the tag that is asked for."""
    site = ROOT / "playbooks/site.yml"
    asked = {"": ("--list-tags",), **{tag: ("--list-tasks", "--tags", tag) for tag in ASKED}}
    commands = [command(site, *options, inventory="localhost,") for options in asked.values()]
    found = forked(commands, environment(), ROOT)
    assert [said for status, said in found if status] == []
    return {tag: said for tag, (_status, said) in zip(asked, found, strict=True)}


def test_the_tags_are_those_that_are_documented(listed: dict[str, str]) -> None:
    text = (ROOT / "docs/reference/tags.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    found = {
        name.strip()
        for names in re.findall(r"TASK TAGS: \[(.*)\]", listed[""])
        for name in names.split(",")
        if name.strip()
    }
    # preflight is a part of every run
    assert found - {"always"} == documented


@pytest.mark.parametrize("tag", ASKED)
def test_no_tag_leaves_out_preflight_or_a_precheck(tag: str, listed: dict[str, str]) -> None:
    tasks = re.findall(r"^ +(?! |play #)(.+?)\tTAGS: \[(.*)\]$", listed[tag], re.MULTILINE)
    names = {name for name, _tags in tasks}
    assert first("preflight", "report") in names
    assert first("gateway", "precheck") in names
    for name, tags in tasks:
        assert {tag, "always"} & {one.strip() for one in tags.split(",")}, name
    assert (first("tls", "precheck") in names) == (tag != "gateway")


def first(role: str, file: str) -> str:
    name = load(ROOT / "roles" / role / "tasks" / f"{file}.yml")[0]["name"]
    return f"onprem.deepseek.{role} : {name}"
