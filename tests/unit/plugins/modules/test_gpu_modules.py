# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules for GPUs, from their arguments to their results, on recorded GPUs."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from waiting import PATIENCE

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
    monkeypatch.setattr(f"{COLLECTION}.module_utils.gpu.host.ROOT", recorded.root)

    def module(name: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
        journal = "\n".join(recorded.log) + "\n"
        (tmp_path / "journal").write_bytes(journal.encode("utf-8", "surrogateescape"))
        imported = importlib.import_module(f"{COLLECTION}.modules.gpu_{name}")
        binding = str(recorded.save())
        where = {"wheels": [binding]} if name == "burn_in" else {"wheel": binding}
        given = {**where, "_ansible_check_mode": check, **arguments}
        with patch_module_args(given), pytest.raises(SystemExit):
            imported.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        result.pop("invocation", None)
        return result

    return module


def documented(name: str, part: str) -> Any:
    module = importlib.import_module(f"{COLLECTION}.modules.gpu_{name}")
    return yaml.safe_load(getattr(module, part))


def test_a_process_name_that_is_cut_inside_a_character_is_no_end(run: Run, recorded: Any) -> None:
    """Kind: a host's bytes in a module's result."""
    cut = "推理服务".encode()[:-1].decode("utf-8", "surrogateescape")
    recorded.log.append(f"kernel: NVRM: Xid (PCI:0000:00:06): 31, pid=4711, name=a{cut}, Ch 0008")
    recorded.process(100, "python3", "/system.slice/other.service")
    recorded.root.joinpath("proc/100/comm").write_bytes(b"\xff\xfe name\n")
    result = run("info")
    assert result["xids"][0]["message"] == "pid=4711, name=a推理服\\xe5\\x8a, Ch 0008"
    assert result["gpus"][0]["processes"][0]["command"] == "\\xff\\xfe name"
    assert run("validate")["failed"] is True


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


@pytest.fixture
def burn_in(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run gpu_burn_in on GPUs that take no time to be measured."""
    for name in ("HOST_SECONDS", "COPY_SECONDS"):
        monkeypatch.setattr(f"{COLLECTION}.module_utils.gpu.burn_in.{name}", 0.05)

    def module(**arguments: Any) -> dict[str, Any]:
        return run(
            "burn_in", **{"seconds": 1, "timeout": PATIENCE, "matrix_size": 1024, **arguments}
        )

    return module


def failed(result: dict[str, Any]) -> dict[str, str]:
    """What is wrong, by the name of the check."""
    return {check["name"]: check["detail"] for check in result["checks"] if not check["ok"]}


def test_burn_in_is_content_with_recorded_gpus(burn_in: Run, recorded: Any) -> None:
    result = burn_in()
    returned = documented("burn_in", "RETURN")
    assert result.keys() == {"changed", *returned}
    assert (result["ok"], result["changed"], result["problems"]) == (True, False, [])
    assert len(result["gpus"]) == 2
    for place, gpu in enumerate(result["gpus"]):
        assert gpu.keys() == returned["gpus"]["contains"].keys()
        for name in ("matrix_tflops", "copy_gb_per_second", "host_to_device_gb_per_second"):
            assert gpu[name] == pytest.approx(recorded.loaded(place)[name]), name
        assert gpu["iterations"] > 0
        assert (gpu["mismatches"], gpu["wrong"], gpu["error"]) == (0, 0, "")
        assert {sample["phase"] for sample in gpu["samples"]} >= {"products"}


def test_burn_in_loads_nothing_in_check_mode(burn_in: Run, recorded: Any) -> None:
    recorded.gpus[0]["nvmlDeviceGetName"] = {"hang": 60}
    result = burn_in(check=True)
    assert (result["skipped"], result["changed"]) == (True, False)
    assert "load" in result["msg"]
    assert burn_in(check=True, seconds=0)["failed"]


def test_burn_in_refuses_what_it_cannot_do_before_it_asks(burn_in: Run, recorded: Any) -> None:
    recorded.gpus[0]["nvmlDeviceGetName"] = {"hang": 60}
    said = burn_in(
        seconds=0.5,
        matrix_size=1000,
        memory_fraction=1,
        timeout=0,
        expectations={"matrix_tflops": "fast", "speed": 1},
    )["msg"]
    for words in (
        "seconds is 0.5",
        "matrix_size is 1000",
        "memory_fraction is 1",
        "timeout is 0",
        "matrix_tflops is 'fast', and must be a number or 'datasheet', or null",
        "there is no 'speed'",
    ):
        assert words in said


def test_burn_in_refuses_gpus_in_use(burn_in: Run, recorded: Any) -> None:
    recorded.process(100, "python3", "/system.slice/deepseek-inference@0.service", 9_000_000)
    result = burn_in()
    assert result["failed"]
    assert failed(result) == {
        "processes": "it is in use by 100 (python3, deepseek-inference@0.service, 9 MB)."
    }
    assert result["gpus"] == []
    assert burn_in(allow_busy=True)["ok"]


def test_burn_in_refuses_gpus_whose_use_is_unknown(burn_in: Run, recorded: Any) -> None:
    recorded.gpus[1]["nvmlDeviceGetComputeRunningProcesses"] = {"error": "Unknown", "code": 999}
    assert failed(burn_in())["processes"].startswith("NVML does not say which processes use it")


def test_burn_in_refuses_divided_gpus_and_gpus_that_do_not_answer(
    burn_in: Run, recorded: Any
) -> None:
    recorded.gpus[0]["nvmlDeviceGetMigMode"] = [1, 1]
    recorded.gpus[1]["nvmlDeviceGetHandleByIndex"] = {"error": "GPU is lost", "code": 15}
    result = burn_in(fail_on_problems=False)
    assert "failed" not in result
    assert failed(result) == {"mig": "MIG is on.", "nvml": "NVML: GPU is lost."}


def test_burn_in_of_a_host_without_gpus_fails(burn_in: Run, recorded: Any) -> None:
    recorded.gpus.clear()
    assert failed(burn_in()) == {"gpus": "NVML lists 0 GPUs."}


def test_burn_in_sees_a_single_wrong_product(burn_in: Run, recorded: Any) -> None:
    recorded.loaded(1)["flip"] = 50
    result = burn_in()
    assert failed(result).keys() == {"checksum"}
    assert failed(result)["checksum"].startswith("1 of ")
    # one product is the reference, and one batch of 16 warms up
    assert [gpu["first_mismatch"] for gpu in result["gpus"]] == [None, 50 - 1 - 16 - 1]
    assert result["problems"][0].startswith("GPU 1 GPU-")


def test_burn_in_sees_a_gpu_that_is_always_wrong(burn_in: Run, recorded: Any) -> None:
    recorded.loaded(1).update(checksum="0123456789abcdef", wrong=7)
    result = burn_in()
    assert failed(result) == {
        "checksum": "7 of 32768 elements of the product are wrong.",
        "checksums": (
            "checksum of the same product on NVIDIA H100 80GB HBM3: 0cb0f40fd0e8bd3d on GPU 0; "
            "0123456789abcdef on GPU 1."
        ),
    }


def test_burn_in_sees_an_ecc_error_that_appears(burn_in: Run, recorded: Any) -> None:
    recorded.loaded(0)["later"] = {
        "nvmlDeviceGetTotalEccErrors(1, 0)": 2,
        "nvmlDeviceGetRemappedRows": [0, 1, 1, 0],
    }
    assert failed(burn_in()) == {
        "ecc_uncorrected": "2 uncorrected ECC errors during the load, at most 0 are accepted.",
        "row_remap": "after the load there is: remapped_rows_pending.",
    }


def test_burn_in_goes_on_without_a_gpu_that_fails(burn_in: Run, recorded: Any) -> None:
    recorded.loaded(0)["fail"] = {"cuStreamSynchronize": "CUDA_ERROR_ECC_UNCORRECTABLE"}
    result = burn_in()
    assert failed(result) == {
        "load": "cuStreamSynchronize: CUDA_ERROR_ECC_UNCORRECTABLE; its last step was: host link."
    }
    assert result["gpus"][0]["matrix_tflops"] is None
    assert result["gpus"][1]["matrix_tflops"] == pytest.approx(recorded.loaded(1)["matrix_tflops"])


def test_burn_in_goes_on_without_a_gpu_whose_process_crashes(burn_in: Run, recorded: Any) -> None:
    recorded.loaded(1)["crash"] = "cublasGemmEx"
    result = burn_in()
    assert failed(result) == {"load": "its process ended with status -11; its last step was: copy."}
    assert result["gpus"][0]["error"] == ""


def test_burn_in_does_not_wait_for_a_gpu_that_hangs(burn_in: Run, recorded: Any) -> None:
    recorded.loaded(1)["hang"] = "cublasGemmEx"
    # long enough for the other GPU's process to end
    result = burn_in(timeout=8)
    assert failed(result) == {"load": "it hangs; its last step was: copy."}
    assert result["gpus"][0]["error"] == ""


@pytest.mark.parametrize("library", ["cublas", "nvrtc"])
def test_burn_in_says_which_library_is_missing(burn_in: Run, recorded: Any, library: str) -> None:
    recorded.load["missing"] = [library]
    result = burn_in()
    assert failed(result)["load"].startswith(f"lib{library}.so.13 cannot be loaded")
    assert "nvidia-cublas" in result["problems"][0]


def test_burn_in_says_that_the_binding_is_missing(burn_in: Run, recorded: Any) -> None:
    (recorded.save() / "only").mkdir()
    for file in ("pynvml.py", "recording.json"):
        shutil.copy(recorded.binding / file, recorded.binding / "only")
    result = burn_in(wheels=[str(recorded.binding / "only")])
    assert failed(result)["load"].startswith("cuda-bindings cannot be imported: No module named")


def test_burn_in_says_that_memory_is_too_small(burn_in: Run, recorded: Any) -> None:
    recorded.load["free_bytes"] = 2**20
    problems = burn_in()["problems"]
    assert len(problems) == 2
    assert "too few for four matrices of 1024 by 1024" in problems[0]
    assert problems[0].endswith("Raise memory_fraction, or lower matrix_size.")


def test_burn_in_takes_wheels(burn_in: Run, recorded: Any, tmp_path: Path) -> None:
    wheel = tmp_path / "nvidia-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in recorded.save().iterdir():
            archive.write(file, file.name)
    assert burn_in(wheels=[str(wheel)])["ok"]
    wheel.write_text("no wheel")
    assert "File is not a zip file" in burn_in(wheels=[str(wheel)])["msg"]
    assert "No such file" in burn_in(wheels=[str(tmp_path / "nothing.whl")])["msg"]


def test_examples_of_burn_in_are_expectations() -> None:
    burn = importlib.import_module(f"{COLLECTION}.module_utils.gpu.burn_in_checks")
    for task in documented("burn_in", "EXAMPLES"):
        burn.expectations_of(task["onprem.deepseek.gpu_burn_in"].get("expectations", {}))
