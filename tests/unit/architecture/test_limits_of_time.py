# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A limit of time in a test ends a hang, and judges no speed: none is a few seconds.

Less than a second is what a test is about: a client that leaves, or nothing that may come.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from waiting import PATIENCE
from yaml_mappings import mappings

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = sorted(
    path
    for directory in ("tests/unit", "serving/tests", "molecule")
    for path in (ROOT / directory).rglob("*.py")
)
# Their first argument.
WAITS = {"communicate", "join", "result", "settimeout", "wait"}
# The argument "timeout".
ASKS = {"Client", "HTTPConnection", "HTTPSConnection", "create_connection", "get", "post"}


def name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def limits(call: ast.Call) -> Iterator[ast.expr]:
    name = name_of(call.func)
    if name in WAITS:
        yield from call.args[:1]
    if name in WAITS | ASKS or ast.unparse(call.func).startswith("subprocess."):
        yield from (one.value for one in call.keywords if one.arg == "timeout")


def too_short(source: str) -> list[int]:
    """The lines with a limit from one second on that a slow machine may need."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        numbers = [one.value for one in limits(call) if isinstance(one, ast.Constant)]
        if any(isinstance(one, int | float) and 1 <= one < PATIENCE for one in numbers):
            found.append(call.lineno)
        # whose own limit is five seconds
        if ast.unparse(call.func) == "httpx.Client" and not list(limits(call)):
            found.append(call.lineno)
    return found


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_limit_of_time_is_a_few_seconds(path: Path) -> None:
    assert too_short(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "short"),
    [
        ("thread.join(30)", True),
        ("process.wait(timeout=20)", True),
        ("subprocess.run(command, timeout=60)", True),
        ("httpx.post(url, timeout=30)", True),
        ("httpx.Client(base_url=url)", True),
        ("thread.join(PATIENCE)", False),
        ("waiting.join(0.5)", False),
        ("run('validate', timeout=1)", False),
        ("', '.join(names)", False),
    ],
)
def test_what_is_short(source: str, short: bool) -> None:
    assert bool(too_short(source)) == short


def test_a_scenario_looks_again_as_often_as_a_slow_machine_needs() -> None:
    looked = [
        (path.name, task["retries"])
        for path in (ROOT / "molecule").rglob("*.yml")
        for task in mappings(yaml.safe_load(path.read_text()))
        if "until" in task
    ]
    assert looked
    assert [one for one in looked if one[1] < PATIENCE] == []
