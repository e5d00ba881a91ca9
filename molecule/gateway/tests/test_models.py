# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several models behind one gateway: names, the detour of large bodies, and a canary's share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Gateway
from lab_hosts import ADDRESSES, hosts, name_of, run_program, wait_for

testinfra_hosts = hosts("gateway-1", "gateway-2")

PROGRAM = (Path(__file__).resolve().parents[1] / "files/models.py").read_text()
DETOUR = "deepseek-gateway-detour.service"
# The scenario's inventory: which workers have which model.
STABLE, CANARY, CODE = {"8000", "8001"}, {"8002"}, {"8003"}


def answered(host: Any, address: str, name: str, size: int, requests: int) -> dict[str, int]:
    said = run_program(host, PROGRAM, address, name, str(size), str(requests))
    workers: dict[str, int] = json.loads(said)
    return workers


@pytest.mark.parametrize("size", [0, 1 << 20, 8_000_000])
def test_the_name_decides_wherever_it_stands(host: Any, peer: Gateway, size: int) -> None:
    for name, workers in (("tiny-onprem", STABLE), ("tiny-code", CODE), ("code", CODE)):
        assert set(answered(host, peer.service, name, size, 2)) <= workers


def test_the_detour_is_another_user_that_reads_nothing_of_the_gateway(host: Any) -> None:
    unit = host.service(DETOUR).systemd_properties
    wanted = {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "DynamicUser": "yes",
        "Group": "haproxy",
        "ProtectSystem": "strict",
        "MemoryMax": str(1 << 30),
    }
    assert {name: unit[name] for name in wanted} == wanted
    process = unit["MainPID"]
    user = host.check_output("stat --format=%%U /proc/%s", process)
    assert user not in {"root", "haproxy"}
    capabilities = host.check_output("grep CapEff /proc/%s/status", process)
    assert int(capabilities.split()[1], 16) == 0
    assert host.file("/run/deepseek-gateway/hsm-pin").mode == 0o400
    assert host.file("/run/deepseek-gateway/hsm-pin").user == "haproxy"


def test_the_largest_bodies_stay_below_its_memory(host: Any, peer: Gateway) -> None:
    """16 at a time, of which each goes by."""
    ask = (
        'for one in $(seq 16); do /usr/bin/python3 -c %s %s tiny-code 8380000 2 & jobs="$jobs $!";'
        " done; for job in $jobs; do wait $job || exit 1; done"
    )
    host.check_output(ask, PROGRAM, ADDRESSES[name_of(host)]["service"])
    unit = host.service(DETOUR).systemd_properties
    (worker,) = host.check_output("pgrep --parent %s", unit["MainPID"]).split()
    # the most that it has had, in KiB; hosts in containers may have no figures of the unit
    most = int(host.check_output("grep VmHWM /proc/%s/status", worker).split()[1])
    assert most < 512 * 1024
    assert unit["NRestarts"] == "0"


def test_a_canary_gets_its_share_and_keeps_it(host: Any, peer: Gateway) -> None:
    own = ADDRESSES[name_of(host)]["service"]

    def shares(*arguments: str) -> dict[str, int]:
        command = "/usr/local/sbin/deepseek-gateway-share" + " %s" * len(arguments)
        found: dict[str, int] = json.loads(host.check_output(command, *arguments))
        return found

    def of_the_canary() -> int:
        workers = answered(host, own, "tiny-onprem", 0, 60)
        assert set(workers) <= STABLE | CANARY
        return workers.get("8002", 0)

    assert of_the_canary() == 0
    assert shares("set", "tiny-onprem", "500") == {"tiny-onprem": 500}
    # 99.99 % of a binomial distribution
    assert 15 <= of_the_canary() <= 45
    for action in ("reload", "restart"):
        host.run("systemctl reset-failed deepseek-gateway.service")
        host.check_output(f"systemctl {action} deepseek-gateway.service")
        # a new process makes its socket a moment after systemd knows of it
        got = wait_for(
            lambda: host.run("/usr/local/sbin/deepseek-gateway-share get"),
            lambda said: said.rc == 0,
        )
        assert json.loads(got.stdout) == {"tiny-onprem": 500}
        wait_for(
            lambda: (
                host.run(
                    "/usr/local/sbin/deepseek-gateway-runtime /run/deepseek-gateway/admin.sock"
                    " 'show servers state model:tiny-onprem'"
                ).stdout
            ),
            lambda said: said.count(" 2 0 ") >= 3,
        )
        assert 15 <= of_the_canary() <= 45
    assert shares("set", "tiny-onprem", "0") == {"tiny-onprem": 0}
    assert of_the_canary() == 0
    refused = host.run("/usr/local/sbin/deepseek-gateway-share set tiny-code 50")
    assert (refused.rc, "no canary for the model tiny-code" in refused.stderr) == (1, True)
