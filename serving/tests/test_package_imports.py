"""What holds for every command, whichever of its modules is imported first."""

from __future__ import annotations

import os
import re
import subprocess
import sys

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


@pytest.mark.parametrize(
    ("lock", "runtime"),
    [
        ("requirements.txt", "onnxruntime"),
        ("requirements-tensorrt-rtx.txt", "onnxruntime"),
        ("requirements-cuda.txt", "onnxruntime-gpu"),
    ],
)
def test_each_lock_has_what_the_package_needs_and_one_onnxruntime(lock: str, runtime: str) -> None:
    folder = ROOT / "serving"
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[^A-Za-z0-9-]", entry)[0] for entry in project["dependencies"]}
    text = (folder / lock).read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))
    # only for a Python that no supported system has
    assert needed - locked <= {"tomli"}
    assert {name for name in locked if name.startswith("onnxruntime")} == {runtime}
