# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A build's progress on the screen of ansible-playbook; deepseek-engine alone is stood in for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from played import play

ROOT = Path(__file__).resolve().parents[4]

# Says that it is at 40 percent, goes on when that was read, however long it takes, and answers.
# Its progress file is a FIFO: it opens when somebody reads it, and is gone before a second reader.
PROGRAM = """#!{python}
import json, os, pathlib, signal, sys
progress = pathlib.Path(sys.argv[sys.argv.index("--progress") + 1])
if sys.argv[2] == "/refused/decoder.onnx":
    sys.exit("deepseek-engine: 10%\\ndeepseek-engine: this graph is refused")
check = "--check" in sys.argv
if not check:
    signal.alarm(600)
    os.mkfifo(progress)
    with progress.open("w") as reader:
        progress.unlink()
        json.dump({{"text": "40% tactics", "fraction": 0.4, "seconds": 7}}, reader)
print(json.dumps({{"changed": True, "rebuild_reason": "no engine yet", "key": "k", "driver": None,
    "driver_changed": False, "build": {{"check": check}}, "before": {{}}, "after": {{"a": 1}}}}))
"""

TASKS = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Build
      onprem.deepseek.model_engine:
        onnx: "{onnx}"
        dest: "{directory}/engine"
        venv: "{directory}"
        progress_seconds: 1
      register: built
    - name: Result
      ansible.builtin.copy:
        content: "{{{{ built | to_json }}}}"
        dest: "{directory}/result.json"
        mode: "0600"
      check_mode: false
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "deepseek-engine"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    return tmp_path


def build(directory: Path, *arguments: str, onnx: str = "/g/decoder.onnx") -> tuple[int, str]:
    (directory / "play.yml").write_text(TASKS.format(directory=directory, onnx=onnx))
    done = play(
        directory / "play.yml",
        *arguments,
        inventory="localhost,",
        ANSIBLE_ASYNC_DIR=str(directory / "async"),
        ANSIBLE_PYTHON_INTERPRETER=sys.executable,
    )
    return done.status, done.said


def test_a_long_build_says_how_far_it_is(directory: Path) -> None:
    status, output = build(directory)
    assert status == 0, output
    assert output.count("[localhost] model_engine: 40% tactics (7 s)") == 1
    result = json.loads((directory / "result.json").read_text())
    assert result["changed"] is True
    assert result["rebuild_reason"] == "no engine yet"
    assert "ansible_job_id" not in result
    assert list((directory / "async").iterdir()) == []


def test_check_mode_asks_the_module_alone(directory: Path) -> None:
    status, output = build(directory, "--check")
    assert status == 0, output
    assert "40% tactics" not in output
    assert json.loads((directory / "result.json").read_text())["build"] == {"check": True}
    assert not (directory / "async").exists()


def test_a_refusal_comes_back_in_the_programs_words(directory: Path) -> None:
    status, output = build(directory, onnx="/refused/decoder.onnx")
    assert status == 2, output
    assert "this graph is refused" in output
    assert "10%" not in output
