# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flows and metrics of roles, with the variables of the hosts that they are of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
INVENTORY = """
all:
  vars: {deepseek_gateway_port: 443, deepseek_storage_port: 8443, deepseek_inference_port: 8000}
  children:
    gateway: {hosts: {gateway-1: {gateway_metrics_port: 9405}}}
    inference:
      hosts:
        inference-1: {}
        inference-2: {deepseek_workers: [{name: a}, {name: b}]}
    storage: {hosts: {storage-1: {ansible_port: 2222}}}
    release: {hosts: {inference-1: {}}}
"""


def ask(directory: Path, kinds: str) -> subprocess.CompletedProcess[str]:
    """Ask the lookup as storage-1 would."""
    inventory = directory / "hosts.yml"
    inventory.write_text(INVENTORY)
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible")),
            *("storage-1", "--inventory", str(inventory), "--connection", "local"),
            *("--module-name", "ansible.builtin.debug", "--args"),
            f"msg={{{{ query('onprem.deepseek.role_exports', {kinds}) }}}}",
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    done = ask(tmp_path_factory.mktemp("site"), "'flows', 'metrics'")
    assert done.returncode == 0, done.stdout + done.stderr
    listed: list[dict[str, Any]] = yaml.safe_load(done.stdout.partition("=>")[2])["msg"]
    return listed


def ports(found: list[dict[str, Any]], target: str) -> list[list[int]]:
    return [[int(port) for port in one["ports"]] for one in found if target in one.get("to", ())]


def test_ports_are_those_of_the_hosts_that_a_flow_leads_to(
    found: list[dict[str, Any]],
) -> None:
    assert ports(found, "service/gateway") == [[443]]
    # metrics, and orders about canaries
    assert ports(found, "management/gateway") == [[9405], [9405]]
    assert ports(found, "storage/storage") == [[8443], [8443], [8442], [8442]]
    assert [8000, 8001] in ports(found, "inference/inference")
    administration = next(one for one in found if one.get("why") == "administration")
    assert [int(port) for port in administration["ports"]] == [2222]
    assert {one["role"] for one in found} >= {"gateway", "inference", "model_storage", "tls"}


def test_where_metrics_are(found: list[dict[str, Any]]) -> None:
    metrics = {one["role"]: one for one in found if "names" in one}
    assert [int(port) for port in metrics["gateway"]["ports"]] == [9405]
    assert metrics["inference"]["at"] == "inference/inference"
    assert metrics["tls"]["textfile"] == "/var/lib/prometheus/node-exporter/deepseek_tls.prom"


def test_what_nobody_exports_is_refused(tmp_path: Path) -> None:
    done = ask(tmp_path, "'secrets'")
    assert done.returncode != 0
    assert "there is no kind 'secrets'" in done.stdout + done.stderr
