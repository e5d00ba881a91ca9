# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role preflight through ansible-playbook, on this machine as the one host of a site."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from played import KEPT_PYTHON, play

ROOT = Path(__file__).resolve().parents[3]
SITE = ROOT / "inventories/lab/group_vars/all/site.yml"
GROUPS = ("gateway", "inference", "storage", "release")
ZONES = ("management", "service", "inference", "storage")


def preflight(directory: Path, *options: str, **variables: Any) -> tuple[int, str, dict[str, Any]]:
    hosts = {
        "poc": {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "deepseek_zone_addresses": dict.fromkeys(ZONES, "127.0.0.1"),
        }
    }
    site = {
        **yaml.safe_load(SITE.read_text()),
        "lab_octet": 112,
        "deepseek_store_dir": str(directory / "store"),
        "deepseek_checkpoint": str(ROOT / "tests/fixtures/checkpoint"),
        "preflight_report_dir": str(directory / "report"),
        **variables,
    }
    inventory = {
        "all": {
            "vars": site,
            "children": {group: {"hosts": hosts} for group in GROUPS},
        }
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
    done = play(
        ROOT / "playbooks/preflight.yml",
        *options,
        inventory=directory / "hosts.yml",
        **KEPT_PYTHON,
    )
    report = directory / "report" / "preflight.json"
    assert report.exists(), done.said
    return done.status, done.said, json.loads(report.read_text())


def test_what_is_wrong_is_reported_with_what_is_right_in_check_mode(tmp_path: Path) -> None:
    status, said, report = preflight(
        tmp_path,
        "--check",
        deepseek_minimums={"cpus": 100000},
        deepseek_engine_flavour="tensorrt",
        deepseek_precision="fp16",
        deepseek_precisions=[{"name": "fp16"}],
    )
    assert status == 2
    assert "changed=0" in said
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["groups"]["found"] == "it has 1 host, and every model is kept on 3"
    assert checks["cpus"]["expected"] == "at least 100000"
    assert checks["nic_mbps"]["found"] == "unknown: lo is a virtual NIC"
    assert checks["reachable"]["status"] == checks["address"]["status"] == "ok"
    assert any(name.startswith("gpu") for name in checks)
    assert report["failed"] == sum(one["status"] == "failed" for one in report["checks"])
    assert f"{report['failed']} things to put right; nothing was changed." in said
    # as a table: columns of the head are where they are in the lines below
    lines = [line.strip() for line in said.splitlines()]
    head = next(line for line in lines if line.startswith("HOST "))
    row = next(line for line in lines if line.startswith("poc ") and " cpus " in line)
    assert head.index("CHECK") == row.index("cpus")
    page = (tmp_path / "report/preflight.html").read_text()
    assert f"{report['failed']} to put right" in page
    assert not (tmp_path / "store").exists()


def test_gpus_are_judged_before_the_rollout_where_they_can_be(
    tmp_path: Path, recorded: Any
) -> None:
    """This machine has no GPU: what host_info says of it is put in its place."""
    nics = dict.fromkeys(ZONES)
    clock = {"service": "", "max_error_ms": 0, "synchronised": False, "offset_seconds": 0}
    disk = {"path": "/", "size": 1, "free": 1, "read_mb_s": 1, "read_from": "", "unknown": ""}
    gpu = {"pci": ["0000:00:06.0"], "driver": "580.159.04", "venv": False}
    seen = {"nics": nics, "clock": clock, "disk": disk, "gpu": gpu}
    _unused, said, report = preflight(
        tmp_path,
        "--extra-vars",
        json.dumps({"__preflight_info": seen}),
        deepseek_engine_flavour="tensorrt",
        deepseek_precision="fp16",
        deepseek_precisions=[{"name": "fp16"}],
        deepseek_minimums={"gpus": {"mig": True, "same_driver": None, "xids": None}},
        gpu_validation_wheel=str(recorded.save()),
        gpu_validation_venv_dir="",
        preflight_network=False,
        deepseek_report_language="zh-CN",
    )
    assert f"有 {report['failed']} 处需要修正；未改动任何东西。" in said
    assert '<html lang="zh-CN">' in (tmp_path / "report/preflight.html").read_text("utf-8")
    checks = [one for one in report["checks"] if one["name"].startswith("gpu_")]
    assert {one["name"] for one in checks if one["status"] == "ok"} >= {"gpu_nvml", "gpu_memory_gb"}
    assert {one["name"] for one in checks if one["status"] == "failed"} >= {"gpu_mig"}
    assert "MIG is off, and off after the next reset; expected: on" in said


def test_a_host_without_a_management_address_is_not_asked(tmp_path: Path) -> None:
    """Its address would be that of the controller. A bare off, YAML's false, is off."""
    none = ("--extra-vars", '{"deepseek_zone_addresses": {}}')
    _unused, said, report = preflight(tmp_path, *none, preflight_network=False)
    asked = [check for check in report["checks"] if check["name"] == "reachable"]
    assert [(one["host"], one["status"]) for one in asked] == [("poc", "deferred")]
    assert "poc, reachable: the inventory gives it no management address" in said
    assert [one for one in report["checks"] if one["name"] == "addresses"]
    assert report["network"]["mode"] == "off"
    assert "not measured: preflight_network is off" in [one["found"] for one in report["checks"]]
