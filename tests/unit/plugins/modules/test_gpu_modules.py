# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gpu_info and gpu_validate, from their arguments to their results, on recorded GPUs."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

COLLECTION = "ansible_collections.onprem.deepseek.plugins"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(
    recorded: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a module as on the recorded host, whose journal is a file."""
    programs = tmp_path / "bin"
    programs.mkdir()
    journal = programs / "journalctl"
    journal.write_text(f"#!/bin/sh\nexec cat {tmp_path}/journal\n")
    journal.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(f"{COLLECTION}.module_utils.gpu_host.ROOT", recorded.root)

    def module(name: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
        (tmp_path / "journal").write_text("\n".join(recorded.log) + "\n")
        imported = importlib.import_module(f"{COLLECTION}.modules.gpu_{name}")
        given = {"wheel": str(recorded.save()), "_ansible_check_mode": check, **arguments}
        with patch_module_args(given), pytest.raises(SystemExit):
            imported.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        result.pop("invocation", None)
        return result

    return module


def documented(name: str, part: str) -> Any:
    module = importlib.import_module(f"{COLLECTION}.modules.gpu_{name}")
    return yaml.safe_load(getattr(module, part))


def test_info_gives_what_it_documents(run: Run, recorded: Any) -> None:
    recorded.process(100, "python3", "/system.slice/other.service")
    result = run("info")
    assert result.pop("changed") is False
    facts = documented("info", "RETURN")
    assert result.keys() == facts.keys()
    assert all(gpu.keys() == facts["gpus"]["contains"].keys() for gpu in result["gpus"])
    assert result["gpus"][0]["product"] == "NVIDIA H100 80GB HBM3"
    assert result["gpus"][0]["processes"][0]["unit"] == "other.service"
    assert result["gpus"][0]["errors"]["retired_pages_pending"] == "Not Supported"


def test_info_of_a_host_without_gpus_is_no_failure(run: Run, recorded: Any) -> None:
    recorded.system["nvmlInit"] = {"error": "Driver Not Loaded", "code": 9}
    result = run("info")
    assert "failed" not in result
    assert result["gpus"] == []
    assert result["problem"]["detail"] == "NVML: Driver Not Loaded"


def test_info_takes_the_python_of_an_environment(run: Run, tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    assert len(run("info", venv=str(tmp_path / "venv"))["gpus"]) == 2
    missing = run("info", venv=str(tmp_path / "nothing"))
    assert missing["problem"]["code"] == "no_python"


def test_validate_is_content_with_healthy_gpus(run: Run) -> None:
    result = run("validate")
    assert (result["ok"], result["changed"], result["problems"]) == (True, False, [])
    assert result.keys() - {"changed"} == documented("validate", "RETURN").keys()
    keys = documented("validate", "RETURN")["checks"]["contains"].keys()
    assert all(check.keys() == keys for check in result["checks"])
    assert result["expectations"]["count"] == 2


def test_validate_names_every_problem_at_once(run: Run, recorded: Any) -> None:
    recorded.gpus[0]["nvmlDeviceGetCurrPcieLinkWidth"] = 8
    recorded.gpus[1]["nvmlDeviceGetMigMode"] = [1, 1]
    recorded.log.append("NVRM: Xid (PCI:0000:00:07): 74, pid=1, NVLink: fatal error")
    result = run("validate", expectations={"count": 8})
    assert result["failed"]
    assert result["changed"] is False
    first, *lines = result["msg"].splitlines()
    assert first == "The GPUs are not as expected:"
    assert lines == result["problems"]
    assert [line.split(": ")[1] for line in lines] == ["count", "pcie_width", "mig", "xids"]


def test_validate_can_report_without_failing(run: Run, recorded: Any) -> None:
    recorded.gpus.pop()
    result = run("validate", fail_on_problems=False)
    assert "failed" not in result
    assert result["ok"] is False
    assert len(result["problems"]) == 1


def test_validate_is_the_same_in_check_mode(run: Run, recorded: Any) -> None:
    assert run("validate", check=True) == run("validate")
    recorded.gpus[0]["nvmlDeviceGetMigMode"] = [1, 1]
    assert run("validate", check=True) == run("validate")


def test_validate_does_not_wait_for_an_nvml_that_hangs(run: Run, recorded: Any) -> None:
    recorded.gpus[0]["nvmlDeviceGetName"] = {"hang": 60}
    result = run("validate", timeout=1)
    assert result["failed"]
    assert result["problems"][0].startswith("host: nvml: NVML gave no answer within 1 seconds;")


def test_validate_refuses_wrong_expectations_before_it_asks(run: Run, recorded: Any) -> None:
    recorded.gpus[0]["nvmlDeviceGetName"] = {"hang": 60}
    result = run("validate", expectations={"gpus": 2, "ecc": "on?"})
    assert "there is no 'gpus'" in result["msg"]
    assert "ecc is 'on?', and must be true or false, or null" in result["msg"]


def test_examples_are_expectations(run: Run) -> None:
    tasks = documented("validate", "EXAMPLES")
    given = [task["onprem.deepseek.gpu_validate"].get("expectations", {}) for task in tasks]
    assert any(given)
    for expectations in given:
        result = run("validate", expectations=expectations, fail_on_problems=False)
        assert "failed" not in result
