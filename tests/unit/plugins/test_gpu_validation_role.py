# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role gpu_validation through ansible-playbook: the modules travel as they do to a host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
PLAY = """
- hosts: localhost
  gather_facts: false
  roles: [onprem.deepseek.gpu_validation]
"""
# Two recorded GPUs; what the machine that runs the tests has, and its kernel says, is not judged.
EXPECTED = {"same_driver": None, "xids": None}


def play(
    folder: Path, *options: str, flavour: str = "tensorrt", **expected: object
) -> tuple[int, str]:
    (folder / "play.yml").write_text(PLAY)
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "gpu_validation_flavour": flavour,
        "gpu_validation_wheel": str(folder),
        "gpu_validation_venv_dir": "",
        "gpu_validation_expectations": {**EXPECTED, **expected},
    }
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("--inventory", "localhost,"),
            *("--extra-vars", json.dumps(variables)),
            *options,
            str(folder / "play.yml"),
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_healthy_gpu_passes(recorded: Any) -> None:
    status, said = play(recorded.save())
    assert status == 0, said
    assert "ok=3    changed=0" in said


def test_everything_wrong_is_named_in_check_mode_too(recorded: Any) -> None:
    status, said = play(recorded.save(), "--check", mig=True, memory_gb=100)
    assert status == 2
    assert "memory_gb: 85.5 GB of memory, at least 100 GB are expected." in said
    assert "mig: MIG is off, and off after the next reset; expected: on." in said
    assert "changed=0" in said


def test_what_is_wrong_can_be_noted_only(recorded: Any) -> None:
    options = ("--extra-vars", '{"gpu_validation_fail_on_problems": false}', "-v")
    status, said = play(recorded.save(), *options, mig=True)
    assert status == 0, said
    assert "MIG is off, and off after the next reset; expected: on." in said


def test_a_host_whose_engine_needs_no_gpu_is_left_alone(tmp_path: Path) -> None:
    status, said = play(tmp_path, flavour="onnxruntime")
    assert status == 0, said
    assert "Compare the GPUs" not in said
