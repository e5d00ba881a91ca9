# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role gpu_validation and its playbook, run as they are on hosts, to which the modules travel."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import played

ROOT = Path(__file__).resolve().parents[3]
PLAY = """
- hosts: localhost
  gather_facts: false
  roles: [onprem.deepseek.gpu_validation]
"""
# Two recorded GPUs; what the machine that runs the tests has, and its kernel says, is not judged.
EXPECTED = {"same_driver": None, "xids": None}
BURN_IN = {
    "gpu_validation_burn_in_expectations": {"xids": None},
    "gpu_validation_burn_in_seconds": 1,
    "gpu_validation_burn_in_timeout_seconds": 300,
}


def play(
    directory: Path,
    *options: str,
    flavour: str = "tensorrt",
    burn_in: bool = False,
    **expected: object,
) -> tuple[int, str]:
    (directory / "play.yml").write_text(PLAY)
    variables = {
        **BURN_IN,
        "gpu_validation_burn_in": burn_in,
        "gpu_validation_burn_in_wheels": [str(directory)],
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "gpu_validation_flavour": flavour,
        "gpu_validation_wheel": str(directory),
        "gpu_validation_venv_dir": "",
        "gpu_validation_expectations": {**EXPECTED, **expected},
    }
    return run(
        directory / "play.yml", "localhost,", "--extra-vars", json.dumps(variables), *options
    )


def run(book: Path, inventory: Path | str, *options: str) -> tuple[int, str]:
    done = played.play(book, *options, inventory=inventory)
    return done.status, done.words


def playbook(directory: Path, hosts: dict[str, dict[str, Any]], *options: str) -> tuple[int, str]:
    """playbooks/gpu_burn_in.yml on inference hosts that are all this machine."""
    common = {
        **BURN_IN,
        **played.HERE,
        "deepseek_engine_flavour": "onnxruntime_cuda",
        "deepseek_venv_dir": "/nowhere",
    }
    inventory = directory / "hosts.json"
    group = {"inference": {"hosts": hosts, "vars": common}}
    inventory.write_text(json.dumps({"all": {"children": group}}))
    return run(ROOT / "playbooks" / "gpu_burn_in.yml", inventory, *options)


def test_a_healthy_gpu_passes(recorded: Any) -> None:
    status, said = play(recorded.save())
    assert status == 0, said
    assert "ok=3 changed=0" in said
    assert "Measure the GPUs" not in said


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


def test_gpus_are_loaded_if_that_is_wanted(recorded: Any) -> None:
    recorded.loaded(1)["matrix_tflops"] = 340.0
    directory = recorded.save()
    status, said = play(directory, burn_in=True)
    assert status == 2
    assert "The GPUs did not pass the burn-in" in said
    assert "matrix_tflops: 340 TFLOP/s, at least 593.4 TFLOP/s are expected" in said
    status, said = play(directory, "--check", burn_in=True)
    assert status == 0, said
    assert "changed=0" in said


def test_the_playbook_reports_all_hosts_and_all_that_is_wrong(
    recorded: Any, tmp_path: Path
) -> None:
    good, slow, busy = (tmp_path / name for name in ("good", "slow", "busy"))
    recorded.save().rename(good)
    recorded.loaded(0)["copy_gb_per_second"] = 1500.0
    recorded.save().rename(slow)
    recorded.process(4194305, "python3", "/")
    recorded.save().rename(busy)
    hosts: dict[str, dict[str, Any]] = {
        path.name: {"gpu_validation_burn_in_wheels": [str(path)]} for path in (good, slow, busy)
    }
    hosts["processor"] = {"deepseek_engine_flavour": "onnxruntime"}
    status, said = playbook(tmp_path, hosts)
    assert status == 2
    figures = "NVIDIA H100 80GB HBM3: 682.9 TFLOP/s bf16, copy 3022 GB/s, from the host 54.8 GB/s"
    assert figures in said
    assert "NOT PASSED. 3 found:" in said
    assert "slow: GPU 0 GPU-00000000-1111-2222-3333-444444444444: copy_gb_per_second: 1500" in said
    assert "slow: host: copy_spread" in said
    assert "busy: GPU 0 GPU-00000000-1111-2222-3333-444444444444: processes: it is in use" in said
    assert "good: " not in said.partition("NOT PASSED")[2]


def test_the_playbook_passes_in_check_mode_and_loads_nothing(tmp_path: Path) -> None:
    status, said = playbook(tmp_path, {"any": {}}, "--check")
    assert status == 0, said
    assert "In check mode nothing was loaded." in said
