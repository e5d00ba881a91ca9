# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of two recorded H100, one at a time: what is said of each, and what to do."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.checks import judge
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.expectations import (
    Expectations,
    ExpectationsError,
    expectations_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.nvml_codes import DRIVER_MISMATCH
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.verdict import Check, problems_of

ROOT = Path(__file__).resolve().parents[5]
UUID = "GPU-00000000-1111-2222-3333-444444444444"
FIRST = f"GPU 0 {UUID}"
RESET = (
    "Drain the host and reset the GPU (nvidia-smi --gpu-reset), or restart the host; if it comes "
    "back, have the GPU examined."
)
NEW_LOG = "A restart begins a new log; a number in xids is accepted."
RESEAT = (
    "Reseat the GPU and its riser, and look at the slot's lanes and speed in the firmware's "
    "set-up; lspci -vv -s 0000:00:06 shows what the link can do (LnkCap) and does (LnkSta)."
)
ROWS = "0 after corrected and {} after uncorrected errors."
SILENT = (
    "Set {} to null where this product has no such thing; a newer nvidia-ml-py may ask in another "
    "way."
)
NOT_SUPPORTED = {"error": "Not Supported", "code": 3}


def failed(recorded: Any, **expectations: Any) -> list[Check]:
    checks = judge(recorded.host(), expectations_of(expectations))
    return [check for check in checks if not check.ok]


def test_two_healthy_gpus_meet_the_default(recorded: Any) -> None:
    checks = judge(recorded.host(), Expectations())
    assert [check for check in checks if not check.ok] == []
    assert {check.remedy for check in checks} == {""}
    names = [field.name for field in dataclasses.fields(Expectations)]
    judged = {check.name for check in checks}
    assert set(names) - judged == {"products", "temperature_celsius"}
    assert [check.name for check in checks if check.subject == "host"] == [
        "nvml",
        "count",
        "driver",
        "same_driver",
        "xids",
    ]
    details = {check.name: check.detail for check in checks if check.subject == FIRST}
    assert details["memory_gb"] == "85.5 GB of memory, at least 80 GB are expected."
    assert details["mig"] == "MIG is off, and off after the next reset; expected: off."
    assert details["nvlinks"] == "0 of 0 NVLinks are up; expected: all."
    assert details["throttle_reasons"] == ("clocks are held down by: gpu_idle; accepted: gpu_idle.")


FAULTS = yaml.safe_load((ROOT / "tests/fixtures/gpu/faults.yml").read_text())


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault(recorded: Any, fault: str) -> None:
    expected = FAULTS[fault]
    recorded.gpus[0].update(expected["answers"])
    subject = "GPU 0" if expected["check"] == "nvml" else FIRST
    found = [check for check in failed(recorded) if check.subject != "host"]
    assert found == [
        Check(subject, expected["check"], False, expected["detail"], expected["remedy"])
    ]


def test_a_missing_gpu(recorded: Any) -> None:
    del recorded.gpus[1]
    (only,) = failed(recorded)
    assert (only.subject, only.name) == ("host", "count")
    assert only.detail == "1 GPU of 2 answer, on the PCI bus: 0000:00:06.0, 0000:00:07.0."
    assert only.remedy == (
        "A GPU that is on the bus and does not answer has its reason in the kernel log (journalctl "
        "--dmesg --grep NVRM). One that is not on the bus needs the host powered off and on, then "
        "its seat and its power cables looked at. If there are meant to be fewer, correct count."
    )


def test_a_gpu_on_the_bus_must_answer_even_if_fewer_are_wanted(recorded: Any) -> None:
    del recorded.gpus[1]
    assert [check.name for check in failed(recorded, count=1)] == ["count"]
    assert failed(recorded, count=None) == []
    # unless it was given to a virtual machine
    driver = recorded.root / "sys/bus/pci/devices/0000:00:07.0/driver"
    driver.symlink_to("../../drivers/vfio-pci")
    assert failed(recorded, count=1) == []


def test_a_driver_that_was_updated_under_running_modules(recorded: Any) -> None:
    recorded.system["nvmlInit"] = {"error": "Driver/library version mismatch", "code": 18}
    recorded.system["nvmlSystemGetNVMLVersion"] = "13.580.173.02"
    assert failed(recorded) == [
        Check("host", "nvml", False, "NVML: Driver/library version mismatch.", DRIVER_MISMATCH),
        Check(
            "host",
            "same_driver",
            False,
            "kernel module 580.159.04, library 580.173.02.",
            DRIVER_MISMATCH,
        ),
    ]


def test_a_library_that_goes_on_with_another_kernel_module(recorded: Any) -> None:
    recorded.system["nvmlSystemGetNVMLVersion"] = "13.580.173.02"
    assert [check.name for check in failed(recorded)] == ["same_driver"]


def test_a_host_without_a_driver(recorded: Any) -> None:
    says = {"error": "NVML Shared Library Not Found", "code": 12}
    recorded.system.update(nvmlInit=says, nvmlSystemGetNVMLVersion=says)
    (recorded.root / "proc/driver/nvidia/version").unlink()
    nvml, same = failed(recorded)
    assert nvml.remedy.startswith("Install NVIDIA's driver")
    assert same.detail == "kernel module not loaded, library unknown."
    assert same.remedy == "Do first what is said of nvml."


def test_a_module_that_is_not_loaded(recorded: Any) -> None:
    recorded.system["nvmlInit"] = {"error": "Driver Not Loaded", "code": 9}
    (recorded.root / "proc/driver/nvidia/version").unlink()
    assert failed(recorded)[1].remedy.startswith("Load the module (modprobe nvidia)")


def test_an_old_driver(recorded: Any) -> None:
    assert failed(recorded, driver="580.159.04") == []
    (only,) = failed(recorded, driver="580.159.10")
    assert only.detail == "driver 580.159.04, at least 580.159.10 is expected."
    assert only.remedy == "Install driver 580.159.10 or newer."


def test_a_product_by_pattern(recorded: Any) -> None:
    assert failed(recorded, products=["NVIDIA A100*", "NVIDIA H100*"]) == []
    first, _other = failed(recorded, products=["NVIDIA A100*"])
    assert first.detail == "product NVIDIA H100 80GB HBM3, expected: NVIDIA A100*."
    assert first.remedy == "Correct products, or take this GPU out of the host."


def test_an_idle_link_is_judged_by_what_it_can_do(recorded: Any) -> None:
    for gpu in recorded.gpus:
        gpu.update(nvmlDeviceGetPerformanceState=8, nvmlDeviceGetCurrPcieLinkGeneration=1)
    assert failed(recorded) == []
    details = [
        check.detail
        for check in judge(recorded.host(), Expectations())
        if check.name == "pcie_generation"
    ]
    assert details[0] == (
        "PCIe generation 1, while the GPU rests in P8; GPU and slot support 5, at least 5 is "
        "expected."
    )
    recorded.gpus[0]["nvmlDeviceGetMaxPcieLinkGeneration"] = 4
    (only,) = failed(recorded, pcie_generation=5)
    assert (only.subject, only.name) == (FIRST, "pcie_generation")


def test_a_pcie_card_may_have_no_bridge(recorded: Any) -> None:
    down = {f"nvmlDeviceGetNvLinkState({link})": 0 for link in range(12)}
    recorded.gpus[0].update(down, nvmlDeviceGetName="NVIDIA A100 80GB PCIe")
    assert failed(recorded) == []
    assert [check.name for check in failed(recorded, nvlinks=12)] == ["nvlinks"] * 2
    recorded.gpus[0]["nvmlDeviceGetName"] = "NVIDIA A100-SXM4-80GB"
    assert [check.name for check in failed(recorded)] == ["nvlinks"]


def test_a_fabric_must_be_joined(recorded: Any) -> None:
    for gpu, joined in zip(recorded.gpus, ([3, 0], [2, 0]), strict=True):
        gpu["nvmlDeviceGetGpuFabricInfo"] = joined
    (only,) = failed(recorded)
    assert (only.subject[:5], only.name) == ("GPU 1", "fabric")
    assert only.detail == "joining the NVSwitch fabric is in_progress, with status 0."
    assert only.remedy == (
        "Install Fabric Manager in exactly the driver's version and run systemctl enable --now "
        "nvidia-fabricmanager; its log says what it waits for. Until it is done, CUDA does not "
        "start on this GPU."
    )
    recorded.gpus[1]["nvmlDeviceGetGpuFabricInfo"] = [3, 999]
    assert [check.name for check in failed(recorded)] == ["fabric"]
    recorded.gpus[1]["nvmlDeviceGetGpuFabricInfo"] = [0, 0]
    assert failed(recorded) == []


def test_gpus_before_ampere_retire_pages(recorded: Any) -> None:
    recorded.gpus[0]["nvmlDeviceGetRemappedRows"] = NOT_SUPPORTED
    (only,) = failed(recorded)
    assert only.detail == "NVML does not say remapped_rows_pending: Not Supported."
    assert only.remedy == SILENT.format("row_remap")
    recorded.gpus[0]["nvmlDeviceGetRetiredPagesPendingStatus"] = 0
    assert failed(recorded) == []
    recorded.gpus[0]["nvmlDeviceGetRetiredPagesPendingStatus"] = 1
    assert [check.name for check in failed(recorded)] == ["row_remap"]


def test_a_margin_by_the_threshold_of_older_gpus(recorded: Any) -> None:
    gpu = recorded.gpus[0]
    gpu["nvmlDeviceGetMarginTemperature"] = NOT_SUPPORTED
    assert [check.name for check in failed(recorded)] == ["temperature_margin_celsius"]
    gpu["nvmlDeviceGetTemperatureThreshold(1)"] = 89
    assert failed(recorded) == []
    gpu["nvmlDeviceGetTemperatureThreshold(1)"] = 50
    (only,) = failed(recorded)
    assert only.detail.startswith("7 °C below the limit")


def test_a_site_has_limits_of_its_own(recorded: Any) -> None:
    hot, _other = failed(recorded, temperature_celsius=40)
    assert hot.detail == "43 °C, at most 40 °C are expected."
    weak, _other = failed(recorded, power_limit_watts=800)
    assert weak.detail == "the power limit is 700 W, at least 800 W are expected."
    assert failed(recorded, power_limit_watts=500) == []


def test_foreign_processes(recorded: Any) -> None:
    group = "/system.slice/system-deepseek.slice/deepseek-inference@main.service"
    recorded.process(100, "deepseek-serve", group, memory=4 * 10**9)
    assert failed(recorded) == []
    recorded.process(200, "python3", "/user.slice/session-1.scope", memory=512 * 10**6)
    recorded.process(300, "miner", "/")
    (only,) = failed(recorded)
    assert only.detail == (
        "foreign processes: 200 (python3, session-1.scope, 512 MB), 300 (miner, no unit); "
        "accepted ones: 1."
    )
    assert only.remedy == (
        "Stop them, or add the name of the command or systemd unit to processes."
    )
    assert failed(recorded, processes=["deepseek-*", "python3", "miner"]) == []


def test_a_process_that_is_gone_has_no_name(recorded: Any) -> None:
    recorded.process(100, "x", "/")
    (recorded.root / "proc/100/comm").unlink()
    (only,) = failed(recorded, processes=["*"])
    assert "100 (unknown, no unit)" in only.detail


def test_xids_belong_to_their_gpus(recorded: Any) -> None:
    recorded.log += [
        "NVRM: Xid (PCI:0000:00:06): 94, pid=7, Contained: SM (0x1)",
        "NVRM: Xid (PCI:0000:00:06): 31, pid=7, MMU Fault",
        "NVRM: Xid (PCI:0000:3b:00): 79, pid=7, GPU has fallen off the bus.",
    ]
    host, gpu = failed(recorded)
    assert host.subject == "host"
    assert host.detail == (
        "Xid 79 (GPU has fallen off the bus) once, last: pid=7, GPU has fallen off the bus."
    )
    assert host.remedy == (
        "Drain the host and restart it; if it comes back, have the GPU and its slot examined. "
        + NEW_LOG
    )
    assert gpu.subject == FIRST
    assert gpu.detail == (
        "Xid 94 (uncorrectable ECC error, contained in one program) once, last: pid=7, Contained: "
        "SM (0x1); Xid 31 (memory page fault) once, last: pid=7, MMU Fault."
    )
    assert gpu.remedy == (
        f"{RESET} Most often the program is at fault, not the GPU: read the log of the process "
        f"that is named, and restart it. {NEW_LOG}"
    )
    assert [check.subject for check in failed(recorded, xids=[31, 94])] == ["host"]
    assert failed(recorded, xids=None) == []


def test_a_log_that_cannot_be_read_is_no_clean_log(recorded: Any) -> None:
    checks = judge(recorded.host("dmesg: Operation not permitted"), Expectations())
    (only,) = [check for check in checks if not check.ok]
    assert (only.subject, only.name) == ("host", "xids")
    assert only.detail == "the kernel log cannot be read: dmesg: Operation not permitted."
    assert only.remedy == "Run the task with become: true."


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Expectations)])
def test_silence_is_no_good_answer(recorded: Any, name: str) -> None:
    """Whatever is judged fails where NVML says nothing, and is left out where it is null."""
    broken = {"error": "Unknown Error", "code": 999}
    keep = {"nvmlDeviceGetUUID", "nvmlDeviceGetPciInfo"}
    recorded.gpus[0] = {call: broken for call in recorded.gpus[0] if call not in keep} | {
        call: recorded.gpus[0][call] for call in keep
    }
    recorded.gpus[0].update(
        nvmlDeviceGetRetiredPagesPendingStatus=broken, nvmlDeviceGetGpuFabricInfo=broken
    )
    everything = {"products": ["*"], "temperature_celsius": 90}
    names = {check.name for check in failed(recorded, **everything) if check.subject == FIRST}
    host_only = {"count", "driver", "same_driver", "xids"}
    assert (name in names) != (name in host_only)
    assert name not in {check.name for check in failed(recorded, **{**everything, name: None})}


def test_everything_is_found_at_once(recorded: Any) -> None:
    # a lost GPU says nothing else, and a row is not pending and failed at once
    faults = [fault for fault in FAULTS.values() if fault["check"] not in {"nvml", "row_remap"}]
    for fault in faults:
        recorded.gpus[0].update(fault["answers"])
    assert sorted(problems_of(failed(recorded))) == sorted(
        f"{FIRST}: {fault['check']}: {fault['detail']} {fault['remedy']}" for fault in faults
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "expectations are [], and must be a mapping"),
        ({"gpus": 2}, "there is no 'gpus'; there are count, products"),
        ({"count": -1}, "count is -1, and must be a whole number, or null"),
        ({"count": True}, "count is True, and must be a whole number"),
        ({"count": 1.5}, "count is 1.5, and must be a whole number"),
        ({"count": "many"}, "count is 'many', and must be a whole number"),
        ({"memory_gb": float("nan")}, "memory_gb is nan, and must be a number"),
        ({"driver": 580.1}, "driver is 580.1, and must be a version in quotes"),
        ({"driver": "latest"}, "driver is 'latest', and must be a version"),
        ({"ecc": 1}, "ecc is 1, and must be true or false"),
        ({"pcie_width": "all"}, "pcie_width is 'all', and must be a whole number or 'max'"),
        ({"nvlinks": "max"}, "nvlinks is 'max', and must be a whole number or 'all'"),
        ({"products": [""]}, "products is [''], and must be a list of names or patterns"),
        ({"throttle_reasons": ["idle"]}, "throttle_reasons is ['idle'], and must be a list of gpu"),
        ({"xids": [None]}, "xids is [None], and must be a list of whole numbers, or null"),
        ({"xids": 31}, "xids is 31, and must be a list of whole numbers"),
    ],
)
def test_expectations_that_are_refused(given: Any, says: str) -> None:
    with pytest.raises(ExpectationsError, match=re.escape(says)):
        expectations_of(given)


def test_all_wrong_expectations_are_named() -> None:
    with pytest.raises(ExpectationsError) as refused:
        expectations_of({"count": "x", "ecc": "maybe", "links": 3})
    assert str(refused.value).count(";") == 3


def test_texts_are_taken_as_templates_give_them() -> None:
    found = expectations_of(
        {"count": "8", "ecc": "False", "driver": 575, "products": "NVIDIA L4", "xids": ["31"]}
    )
    assert (found.count, found.ecc, found.driver) == (8, False, "575")
    assert (found.products, found.xids) == (("NVIDIA L4",), (31,))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)
NAMES = [field.name for field in dataclasses.fields(Expectations)]


@given(given=st.dictionaries(st.sampled_from(NAMES) | st.text(), anything) | anything)
def test_whatever_is_expected_is_taken_or_refused(given: Any) -> None:
    try:
        found = expectations_of(given)
    except ExpectationsError:
        return
    assert {name for name in given if given[name] is None} <= {
        name for name in NAMES if getattr(found, name) is None
    }


values = st.none() | st.integers() | st.text() | st.booleans() | st.just("max") | st.floats()


@given(given=st.dictionaries(st.sampled_from(NAMES), values))
def test_whatever_is_taken_can_be_judged(healthy_host: Any, given: Any) -> None:
    try:
        found = expectations_of(given)
    except ExpectationsError:
        return
    assert all(check.detail for check in judge(healthy_host, found))


def test_every_expectation_is_documented_with_its_default() -> None:
    module = (ROOT / "plugins/modules/gpu_validate.py").read_text()
    documented = yaml.safe_load(module.split('r"""')[1].split('"""')[0])
    text = "\n".join(documented["options"]["expectations"]["description"])
    for field in dataclasses.fields(Expectations):
        assert f"C({field.name}) ({written(field.default)})" in text


def written(default: Any) -> str:
    """A default as the documentation has it."""
    if isinstance(default, str):
        return f"V({default})"
    if isinstance(default, tuple):
        return f"[{', '.join(default)}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(default), str(default))
