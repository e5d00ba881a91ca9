# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of the scenarios, with a stand-in for Molecule."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

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


def test_no_more_run_at_once_than_there_is_room_for(
    program: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large has 3 hosts and small 1: broken, with 2, has to wait for large."""
    now: list[str] = []
    together: list[list[str]] = []

    def run(_root: Path, _molecule: str, name: str, _stop: threading.Event) -> Any:
        now.append(name)
        together.append(sorted(now))
        time.sleep(0.3)
        now.remove(name)
        return program.Outcome(name, True, 0.3, root)

    monkeypatch.setattr(program, "HOSTS_AT_A_TIME", 4)
    monkeypatch.setattr(program, "run", run)
    ended = list(program.run_all(root, "molecule", ["large", "broken", "small"]))
    assert sorted(outcome.name for outcome in ended) == ["broken", "large", "small"]
    assert ["large", "small"] in together
    assert not any({"large", "broken"} <= set(names) for names in together)


def test_one_that_has_more_hosts_than_there_is_room_for_runs_alone(
    program: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "HOSTS_AT_A_TIME", 2)
    assert program.main(root, ["large", "small"]) == 0


def test_the_longest_goes_before_the_others(program: ModuleType, root: Path) -> None:
    for name in ("nvidia_driver", "site"):
        (root / "molecule" / name).mkdir()
        (root / "molecule" / name / "molecule.yml").write_text("---\n")
    assert program.scenarios(root)[:2] == ["site", "nvidia_driver"]
    other = root / "bin" / "molecule"
    other.write_text("#!/bin/sh\nnice\n")
    levels = {
        name: int(program.run(root, str(other), name, threading.Event()).log.read_text())
        for name in ("site", "small")
    }
    assert levels["small"] == levels["site"] + 5


def test_one_that_hangs_is_ended_with_what_it_started(
    program: ModuleType,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (root / "bin" / "molecule").write_text("#!/bin/sh\nsleep 600 & echo $!\nwait\n")
    monkeypatch.setattr(program, "SILENT_SECONDS", 0.5)
    assert program.main(root, ["small"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("FAILED small: ")
    assert said[3].startswith("Ended: silent for ")
    assert _gone(int(said[1]))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_what_runs(root: Path, sent: signal.Signals) -> None:
    began = root / "began"
    (root / "bin" / "molecule").write_text(f"#!/bin/sh\necho $$ >{began}\nsleep 600\n")
    program = root / "tests" / "lab" / PROGRAM.name
    program.parent.mkdir(parents=True)
    shutil.copy(PROGRAM, program)
    process = subprocess.Popen([sys.executable, program, "small"], stderr=subprocess.DEVNULL)
    while not (began.exists() and began.read_text()):
        time.sleep(0.05)
    process.send_signal(sent)
    assert process.wait(timeout=60) != 0
    assert _gone(int(began.read_text()))


def _gone(pid: int) -> bool:
    for _try in range(100):
        try:
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if status == "Z":
            return True
        time.sleep(0.05)
    return False
