"""What holds for every command, whichever of its modules is imported first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["export.cli", "signing", "serve", "runtime.onnxruntime"])
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
