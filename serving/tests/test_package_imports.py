"""What holds for every command, whichever of its modules is imported first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from support import ROOT


@pytest.mark.parametrize("module", ["export.cli", "trust.cli", "server", "runtime.onnxruntime"])
def test_onnxruntime_is_told_not_to_report_before_it_is_loaded(module: str) -> None:
    """The setting is there when onnxruntime is looked for, and afterwards."""
    program = f"""
import os
import sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            assert os.environ.get("ORT_DISABLE_TELEMETRY") == "1", "loaded without the setting"
sys.meta_path.insert(0, Watch())
import deepseek_serving.{module}
print(os.environ.get("ORT_DISABLE_TELEMETRY"))
"""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


LOCKS = sorted((ROOT / "serving").glob("requirements*-py3.*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=[lock.name for lock in LOCKS])
def test_each_lock_has_what_the_package_needs_and_one_onnxruntime(lock: Path) -> None:
    project = tomllib.loads((ROOT / "serving/pyproject.toml").read_text("utf-8"))["project"]
    needed = {re.split(r"[^A-Za-z0-9-]", entry)[0] for entry in project["dependencies"]}
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock.read_text("utf-8"), re.MULTILINE))
    # only for a Python that no supported system has
    assert needed - locked <= {"tomli"}
    runtime = "onnxruntime-gpu" if "-cuda-" in lock.name else "onnxruntime"
    assert {name for name in locked if name.startswith("onnxruntime")} == {runtime}


@pytest.mark.parametrize("lock", LOCKS, ids=[lock.name for lock in LOCKS])
def test_a_lock_is_for_one_python_and_pins_each_package_by_its_hashes(lock: Path) -> None:
    """No markers: pip evaluates them for the Python that runs it, not for that of the hosts."""
    text = lock.read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) > 50
    pin = re.compile(r"[a-z0-9-]+==[A-Za-z0-9.+!]+( +--hash=sha256:[0-9a-f]{64})+")
    assert [line[:80] for line in lines if not pin.fullmatch(line)] == []


def test_there_is_a_lock_of_each_kind_for_each_python() -> None:
    kinds = ("requirements", "requirements-cuda", "requirements-tensorrt-rtx")
    wanted = {f"{kind}-py{python}.txt" for kind in kinds for python in ("3.11", "3.12", "3.13")}
    assert {lock.name for lock in LOCKS} == wanted
