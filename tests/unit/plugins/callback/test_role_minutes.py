# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The minutes that role_minutes shows, on a clock that the tests move."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.callback import role_minutes


class Screen:
    """Keeps what would be displayed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def display(self, text: str, color: str | None = None) -> None:
        self.lines.append(text)

    def banner(self, text: str) -> None:
        self.lines.append(text)


class Run:
    """A play run: tasks of roles that take a given time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.screen = Screen()
        self.options: dict[str, str | None] = {"output_file": None}
        monkeypatch.setattr(role_minutes.time, "monotonic", lambda: self.now)
        self.callback = role_minutes.CallbackModule()
        monkeypatch.setattr(self.callback, "_display", self.screen)
        monkeypatch.setattr(self.callback, "get_option", self.options.get)

    def task(self, role: str | None, seconds: float, handler: bool = False) -> None:
        owner = SimpleNamespace(get_name=lambda: role) if role else None
        task = SimpleNamespace(_role=owner)
        if handler:
            self.callback.v2_playbook_on_handler_task_start(task)
        else:
            self.callback.v2_playbook_on_task_start(task, False)
        self.now += seconds

    def end(self, **totals: int) -> list[str]:
        counts = {"ok": 1, "changed": 0, "failures": 0, "dark": 0} | totals
        stats = {name: {"h1": count, "h2": 0} for name, count in counts.items()}
        self.screen.lines.clear()
        self.callback.v2_playbook_on_stats(SimpleNamespace(**stats))
        return self.screen.lines


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (60, "1:00"), (125, "2:05"), (3725, "62:05")]
)
def test_seconds_as_minutes(seconds: float, text: str) -> None:
    assert role_minutes.clock(seconds) == text


def test_time_of_tasks_and_handlers_goes_to_their_roles_longest_first(run: Run) -> None:
    run.task(None, 1)
    run.task("onprem.deepseek.tls", 20)
    run.task("onprem.deepseek.gateway", 100)
    run.task("onprem.deepseek.tls", 10)
    run.task("onprem.deepseek.gateway", 5, handler=True)
    assert run.end(changed=3) == [
        "MINUTES PER ROLE",
        "    1:45  gateway",
        "    0:30  tls",
        "    0:01  (plays)",
        "    2:16  in all, changed=3",
    ]


def test_each_task_shows_the_time_elapsed(run: Run) -> None:
    run.task("tls", 65)
    run.task("tls", 0)
    assert run.screen.lines == ["[0:00 elapsed]", "[1:05 elapsed]"]


@pytest.mark.parametrize(
    ("totals", "said"),
    [
        ({}, True),
        ({"changed": 1}, False),
        ({"failures": 1}, False),
        ({"dark": 1}, False),
        ({"ok": 0}, False),
    ],
)
def test_that_nothing_changed_is_said_only_when_it_is_so(
    run: Run, totals: dict[str, int], said: bool
) -> None:
    run.task("tls", 1)
    assert ("Nothing had to be changed (changed=0)." in run.end(**totals)) is said


def test_the_table_is_written_to_a_file_when_asked(run: Run, tmp_path: Path) -> None:
    run.options["output_file"] = str(tmp_path / "timings.json")
    run.task("onprem.deepseek.tls", 2.5)
    run.end(changed=1)
    written: dict[str, Any] = json.loads((tmp_path / "timings.json").read_text())
    assert written == {
        "roles": {"tls": 2.5},
        "total": 2.5,
        "ok": 1,
        "changed": 1,
        "failures": 0,
        "dark": 0,
    }


def test_a_run_without_tasks_has_a_table_too(run: Run) -> None:
    assert run.end(ok=0)[-1] == "    0:00  in all, changed=0"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tags": ["gateway"]}, "Only what --tags gateway left in was looked at: tls."),
        ({"skip_tags": ["a", "b"]}, "Only what --skip-tags a,b left in was looked at: tls."),
        ({"tags": ["all"], "skip_tags": []}, "Nothing had to be changed (changed=0)."),
    ],
)
def test_a_run_of_some_tasks_is_not_said_to_have_found_everything_right(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: dict[str, list[str]], said: str
) -> None:
    """Kind: a run that looked at nothing, and says that nothing had to be changed."""
    monkeypatch.setattr(role_minutes.context, "CLIARGS", options)
    run.task("onprem.deepseek.tls", 1)
    assert run.end()[-1] == said


@pytest.mark.parametrize(("secrets", "told"), [(None, True), ([], True), (["one"], False)])
def test_files_that_no_password_opens_are_named(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    secrets: list[str] | None,
    told: bool,
) -> None:
    """Ansible ends then before the first task, and does not say where."""
    for name, text in {
        "group_vars/all/vault.yml": "$ANSIBLE_VAULT;1.1;AES256\n61\n",
        "host_vars/a.yml": "$ANSIBLE_VAULT;1.2;AES256;id\n61\n",
        "group_vars/all/plain.yml": "a: 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    inventory = tmp_path / "hosts.yml"
    monkeypatch.setattr(
        role_minutes.context, "CLIARGS", {"inventory": [str(inventory), "localhost,"]}
    )
    loader = SimpleNamespace(_vault=SimpleNamespace(secrets=secrets))
    playbook = SimpleNamespace(get_loader=lambda: loader, _file_name="/nowhere/site.yml")
    run.callback.v2_playbook_on_start(playbook)
    named = [line.split(" is encrypted")[0] for line in run.screen.lines]
    files = [str(tmp_path / name) for name in ("group_vars/all/vault.yml", "host_vars/a.yml")]
    assert named == (files if told else [])
