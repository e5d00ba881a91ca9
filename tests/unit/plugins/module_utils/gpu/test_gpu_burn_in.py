# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a load that was recorded on two H100, and of the same load with faults."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import until

from ansible_collections.onprem.deepseek.plugins.module_utils.gpu import burn_in as gpu_burn_in
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.burn_in import (
    Burn,
    Sample,
    Settings,
    burn,
    burn_of,
    problems_with,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.burn_in_checks import (
    _KINDS,
    Expectations,
    expectations_of,
    judge,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.datasheets import DATASHEETS
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.expectations import (
    ExpectationsError,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.host import Host
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.load import SAMPLES
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.snapshot import Problem
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.verdict import Check, problems_of
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.xid import Xid

FIXTURES = Path(__file__).resolve().parents[4] / "fixtures" / "gpu"
RECORDED = FIXTURES / "h100-burn-in.json"
FAULTS = yaml.safe_load((FIXTURES / "burn-in-faults.yml").read_text())
UNKNOWN = "were measured, and nothing is known to compare them with"
Change = Callable[[Burn], Burn]


def recorded_burns() -> list[Burn]:
    burns = []
    for gpu in json.loads(RECORDED.read_text()):
        head = {name: gpu.pop(name) for name in ("index", "uuid", "product", "error")}
        samples = [
            Sample(**{**sample, "throttle_reasons": tuple(sample["throttle_reasons"])})
            for sample in gpu.pop("samples")
        ]
        burns.append(Burn(**head, phase="end", figures=gpu, samples=tuple(samples)))
    return burns


def changed(place: int, change: Change) -> list[Burn]:
    burns = recorded_burns()
    burns[place] = change(burns[place])
    return burns


def figures(**values: Any) -> Change:
    return lambda one: replace(one, figures={**one.figures, **values})


def samples(**values: Any) -> Change:
    """Have NVML say something else from the tenth second on."""
    if "throttle_reasons" in values:
        values["throttle_reasons"] = tuple(values["throttle_reasons"])
    return lambda one: replace(
        one,
        samples=tuple(
            replace(sample, **values) if sample.seconds > 10 else sample for sample in one.samples
        ),
    )


def bad(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.detail for check in checks if not check.ok}


def test_recorded_gpus_pass(healthy_host: Host) -> None:
    checks = judge(healthy_host, healthy_host, recorded_burns(), Expectations())
    assert problems_of(checks) == []
    said = {(check.subject[:5], check.name): check.detail for check in checks}
    assert said["GPU 0", "matrix_tflops"] == (
        "682.9 TFLOP/s, at least 593.4 TFLOP/s are expected (0.6 of the 989 of its datasheet)."
    )
    assert said["GPU 1", "copy_gb_per_second"] == (
        "3017 GB/s, at least 2680 GB/s are expected (0.8 of the 3350 of its datasheet)."
    )
    assert said["GPU 1", "device_to_host_gb_per_second"] == (
        "50.49 GB/s, at least 37.8 GB/s are expected (0.6 of PCIe 5.0 x16)."
    )
    assert said["GPU 0", "throttle_reasons"].startswith(
        "clocks were held down by: sw_power_cap in 25 of 25 samples; accepted: "
    )
    assert said["GPU 1", "temperature_margin_celsius"].startswith("at the warmest 14 °C below")
    assert said["host", "matrix_spread"].startswith(
        "the slowest NVIDIA H100 80GB HBM3 (GPU 0, 682.9) is 0.5% below the fastest (GPU 1, 686.6)"
    )
    assert all(check.remedy == "" for check in checks)


@pytest.mark.parametrize("name", FAULTS)
def test_faults(healthy_host: Host, name: str) -> None:
    fault = FAULTS[name]
    change = figures(**fault["figures"]) if "figures" in fault else samples(**fault["samples"])
    checks = judge(healthy_host, healthy_host, changed(1, change), Expectations())
    assert bad(checks) == fault["checks"]
    assert all(check.remedy for check in checks if not check.ok)
    wrong = {check.subject[:5] for check in checks if not check.ok}
    assert wrong <= {"GPU 1", "host"}


def test_what_nvml_did_not_say_is_not_good(healthy_host: Host) -> None:
    burns = changed(1, lambda one: replace(one, samples=()))
    assert bad(judge(healthy_host, healthy_host, burns, Expectations())) == {
        "throttle_reasons": "NVML did not say throttle reasons during the load.",
        "temperature_margin_celsius": (
            "NVML did not say how far it is from slowing down during the load."
        ),
    }


def test_a_product_of_which_nothing_is_known_passes_by_given_figures_only(
    healthy_host: Host,
) -> None:
    burns = [replace(one, product="NVIDIA X1") for one in recorded_burns()]
    why = "NVIDIA X1 is not among the products whose datasheet is known."
    assert bad(judge(healthy_host, healthy_host, burns, Expectations())) == {
        "matrix_tflops": f"686.6 TFLOP/s {UNKNOWN}: {why}",
        "copy_gb_per_second": f"3017 GB/s {UNKNOWN}: {why}",
    }
    given = expectations_of({"matrix_tflops": 680, "copy_gb_per_second": 3000})
    assert bad(judge(healthy_host, healthy_host, burns, given)) == {}
    more = expectations_of({"matrix_tflops": 685, "copy_gb_per_second": None})
    assert bad(judge(healthy_host, healthy_host, burns, more)) == {
        "matrix_tflops": "682.9 TFLOP/s, at least 685 TFLOP/s are expected (as expectations say)."
    }


def test_a_link_that_is_not_known_is_not_good(healthy_host: Host) -> None:
    gpus = tuple(replace(gpu, pcie_width_max=None) for gpu in healthy_host.snapshot.gpus)
    host = replace(healthy_host, snapshot=replace(healthy_host.snapshot, gpus=gpus))
    assert bad(judge(host, host, recorded_burns(), Expectations())).keys() == {
        "host_to_device_gb_per_second",
        "device_to_host_gb_per_second",
    }


def test_gpus_of_different_products_are_not_compared(healthy_host: Host) -> None:
    other = changed(1, lambda one: replace(one, product="NVIDIA H200"))
    names = {check.name for check in judge(healthy_host, healthy_host, other, Expectations())}
    assert not names & {"checksums", "matrix_spread", "copy_spread"}


def test_the_margin_is_computed_where_nvml_does_not_say_it(healthy_host: Host) -> None:
    gpus = tuple(
        replace(gpu, temperature_slowdown_celsius=70) for gpu in healthy_host.snapshot.gpus
    )
    host = replace(healthy_host, snapshot=replace(healthy_host.snapshot, gpus=gpus))
    burns = changed(1, samples(temperature_margin_celsius=None, temperature_celsius=68))
    found = bad(judge(host, host, burns, Expectations()))
    assert found.keys() == {"temperature_margin_celsius"}
    assert found["temperature_margin_celsius"].startswith("at the warmest 2 °C below the limit")
    wanted = expectations_of({"temperature_margin_celsius": None, "temperature_celsius": 65})
    assert bad(judge(host, host, burns, wanted)) == {
        "temperature_celsius": "68 °C at most, 65 °C are expected."
    }


def test_xids_count_from_the_beginning_of_the_load(healthy_host: Host) -> None:
    before = replace(healthy_host, xids=(Xid("0000:00:06", 43, 2, "old"),))
    assert bad(judge(before, before, recorded_burns(), Expectations())) == {}
    again = replace(before, xids=(Xid("0000:00:06", 43, 3, "new"), Xid("0000:00:07", 48, 1, "DBE")))
    found = bad(judge(before, again, recorded_burns(), Expectations()))["xids"]
    assert found.startswith(
        "Xid 43 (GPU stopped processing for a program) once, last: new on GPU 0"
    )
    assert "Xid 48 (uncorrectable ECC error (double bit)) once, last: DBE on GPU 1 GPU-" in found
    assert bad(judge(before, again, recorded_burns(), expectations_of({"xids": [43, 48]}))) == {}
    mute = replace(before, log_problem="dmesg: not permitted")
    assert bad(judge(before, mute, recorded_burns(), Expectations())) == {
        "xids": "the kernel log cannot be read: dmesg: not permitted."
    }


def test_a_gpu_that_is_gone_afterwards(healthy_host: Host) -> None:
    first = healthy_host.snapshot.gpus[0]
    after = replace(healthy_host, snapshot=replace(healthy_host.snapshot, gpus=(first,)))
    assert bad(judge(healthy_host, after, recorded_burns(), Expectations())) == {
        "ecc_uncorrected": "NVML does not answer for this GPU after the load.",
        "row_remap": "NVML does not answer for this GPU after the load.",
    }


def test_corrected_errors_are_judged_if_that_is_wanted(healthy_host: Host) -> None:
    gpus = tuple(replace(gpu, ecc_volatile_corrected=9) for gpu in healthy_host.snapshot.gpus)
    after = replace(healthy_host, snapshot=replace(healthy_host.snapshot, gpus=gpus))
    assert bad(judge(healthy_host, after, recorded_burns(), Expectations())) == {}
    wanted = expectations_of({"ecc_corrected": 0})
    assert bad(judge(healthy_host, after, recorded_burns(), wanted)) == {
        "ecc_corrected": "9 corrected ECC errors during the load, at most 0 are accepted."
    }


def test_a_load_that_did_not_come_about(healthy_host: Host) -> None:
    problem = Problem("crash", "the load ended with status 1: no memory", "Look.")
    checks = judge(healthy_host, healthy_host, problem, Expectations())
    assert problems_of(checks) == ["host: load: the load ended with status 1: no memory. Look."]


def test_fractions_have_a_default_and_everything_else_can_be_null() -> None:
    assert expectations_of(dict.fromkeys(_KINDS)) == Expectations(
        **{
            name: None
            for name in _KINDS
            if name not in ("matrix_fraction", "copy_fraction", "link_fraction")
        }
    )
    with pytest.raises(ExpectationsError, match="matrix_fraction is 'all'"):
        expectations_of({"matrix_fraction": "all"})
    names = {field.name for field in dataclasses.fields(Expectations)}
    assert names == _KINDS.keys()


def test_datasheets_are_plausible() -> None:
    for product, sheet in DATASHEETS.items():
        assert product.startswith("NVIDIA ")
        assert 300 <= sheet.tflops <= 1000, product
        assert 800 <= sheet.gb_per_second <= 5000, product
        assert sheet.source.startswith("https://"), product
        assert (sheet.matrix_fraction > 0.5) == (
            "SXM" in product or product.endswith(("HBM3", "H200"))
        )


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (Settings(0, 8192, 0.8, 60), "seconds"),
        (Settings(60, 8191, 0.8, 60), "matrix_size"),
        (Settings(60, 65536, 0.8, 60), "matrix_size"),
        (Settings(60, 8192, 0.99, 60), "memory_fraction"),
        (Settings(60, 8192, float("nan"), 60), "memory_fraction"),
        (Settings(60, 8192, 0.8, 0), "timeout"),
    ],
)
def test_settings_that_cannot_be(settings: Settings, word: str) -> None:
    assert [problem.partition(" ")[0] for problem in problems_with(settings)] == [word]


def test_a_load_that_hangs_is_killed_with_its_children(
    healthy_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_burn_in, "_LATE_SECONDS", 0.0)
    stuck = tmp_path / "python"
    stuck.write_text(
        f"#!/bin/sh\necho 'GPU 1: copy' >&2\nsleep 600 &\necho $! >{tmp_path}/child\nwait\n"
    )
    stuck.chmod(0o755)
    problem = burn(str(stuck), [], Settings(1, 1024, 0.5, 2), healthy_host.snapshot.gpus)
    assert isinstance(problem, Problem)
    assert problem.code == "timeout"
    assert problem.detail == (
        "the load did not end within 3 seconds and was killed; its last step was: GPU 1: copy"
    )
    child = Path("/proc", (tmp_path / "child").read_text().strip())
    until(lambda: not child.exists() or "Z" in (child / "stat").read_text())


def test_a_load_that_says_nonsense(healthy_host: Host, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no memory' >&2\nexit 3\n")
    broken.chmod(0o755)
    gpus = healthy_host.snapshot.gpus
    problem = burn(str(broken), [], Settings(1, 1024, 0.5, 5), gpus)
    assert isinstance(problem, Problem)
    assert problem.detail == "the load ended with status 3: no memory"
    missing = burn(str(tmp_path / "nothing"), [], Settings(1, 1024, 0.5, 5), gpus)
    assert isinstance(missing, Problem)
    assert missing.code == "no_python"


def test_samples_keep_what_nvml_does_not_say() -> None:
    answer = {
        "index": 0,
        "uuid": "GPU-0",
        "phase": "wait",
        "error": "it failed",
        "samples": [{"seconds": 1, "phase": "wait", **dict.fromkeys(SAMPLES)}],
    }
    one = burn_of(answer, "NVIDIA X1")
    assert one.figures == {}
    assert one.samples[0] == Sample(1, "wait", *[None] * 8)
