# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of the scenarios, with a stand-in for Molecule."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "lab" / "scenarios.py"
MOLECULE = """#!/bin/sh
echo "$*"
test "$3" != broken
"""


@pytest.fixture
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lab_scenarios", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the annotations' names
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, hosts in {"small": 1, "large": 3, "broken": 2}.items():
        inventory = tmp_path / "molecule" / name / "inventory"
        inventory.mkdir(parents=True)
        (inventory / "hosts.yml").write_text("lab_debian: bookworm\n" * hosts)
        (inventory.parent / "molecule.yml").write_text("---\n")
    molecule = tmp_path / "bin" / "molecule"
    molecule.parent.mkdir()
    molecule.write_text(MOLECULE)
    molecule.chmod(0o755)
    monkeypatch.setenv("PATH", f"{molecule.parent}:{os.environ['PATH']}")
    return tmp_path


def test_those_with_most_hosts_come_first(program: ModuleType, root: Path) -> None:
    assert program.scenarios(root) == ["large", "broken", "small"]


def test_one_that_fails_is_shown_and_the_others_go_on(
    program: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(root, []) == 1
    said = capsys.readouterr().out
    assert "FAILED broken: 0 s\ntest --scenario-name broken\nAll of it: " in said
    assert "passed large: 0 s" in said
    assert said.endswith("scenarios: 2 passed, 1 failed\n")


def test_all_pass(program: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(root, ["small", "large"]) == 0
    assert capsys.readouterr().out.endswith("scenarios: 2 passed, 0 failed\n")


def test_one_that_is_not_there_is_refused_before_any_runs(
    program: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(root, ["small", "smal"]) == 2
    assert capsys.readouterr().out == "no such scenario: smal; there are large, broken, small\n"
    assert not (root / ".cache").exists()
