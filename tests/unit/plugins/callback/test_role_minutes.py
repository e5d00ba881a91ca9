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
