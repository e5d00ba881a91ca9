# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What preflight says of the network between hosts: MTUs, delay, loss, bandwidth and ports."""

from __future__ import annotations

from typing import Any

import pytest
from faultless_site import (
    ADDRESSES,
    PAIRS,
    everywhere,
    host,
    info,
    judged,
    measured,
    with_info,
    wrong,
)

from ansible_collections.onprem.deepseek.plugins.module_utils.preflight import report as preflight
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.check import SKIPPED
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.report import Network


def test_one_mtu_that_is_not_that_of_the_zone() -> None:
    nic = {**info("storage-2")["nics"]["storage"], "mtu": 1500}
    (only,) = wrong(with_info("storage-2", "nics", storage=nic))
    assert only.startswith(
        "storage-2 mtu: 1500 (eno1, storage) | 9000 as in the rest of the zone |"
    )


def test_an_mtu_below_the_minimum() -> None:
    hosts = everywhere(deepseek_minimums={"mtu": 9216})
    assert len(wrong(*hosts)) == sum(len(zones) for zones in ADDRESSES.values())
    assert wrong(*everywhere(deepseek_minimums={"mtu": None})) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"blocked": "tcp", "problem": "no answer within 2 s"},
            "port: TCP 10.0.0.1 -> 10.0.0.2 port 8442 (inference): no answer within 2 s | an answ",
        ),
        ({"blocked": "udp", "problem": "none"}, "port: UDP 10.0.0.1 -> 10.0.0.2 port 8442"),
        (
            {"problem": "not measured: time is over"},
            "network: 10.0.0.1 -> 10.0.0.2 (inference): not",
        ),
        (
            {"rtt_ms": {"min": 0.5, "median": 1.0, "p99": 9.0, "max": 9.0}},
            "rtt_ms: median 1.0 ms, min 0.5, p99 9.0 (inference) | median below 1 ms",
        ),
        ({"lost": 1}, "loss_percent: 1 of 50 datagrams lost (inference) | at most 0 %"),
        ({"path_mtu": 1500}, "path_mtu: 1500 (inference) | 9000, the MTU of the NIC"),
        ({"path_mtu": None}, "path_mtu: none (inference) | 9000"),
    ],
)
def test_pairs(changes: dict[str, Any], says: str) -> None:
    probes = [measured("inference-1", "inference", **changes)]
    (only,) = wrong(host("gateway-1", probes=probes))
    assert only.startswith(f"gateway-1 -> inference-1 {says}")


def test_bandwidth_is_judged_by_the_slower_direction() -> None:
    slow = [measured("inference-1", "inference", bandwidth_mbps={"to": 9400.0, "from": 940.0})]
    (only,) = wrong(host("gateway-1", transfers=slow))
    assert only.startswith(
        "gateway-1 -> inference-1 bandwidth_mbps: 9400 Mb/s there, 940 Mb/s back (inference) | "
        "at least 8000 Mb/s (inference) | Look at NIC speed"
    )
    failed = [measured("inference-1", "inference", problem="the connection was reset")]
    assert len(wrong(host("gateway-1", transfers=failed))) == 1


def test_a_transfer_without_a_turn_is_said() -> None:
    hosts = [host(name, transfers=[]) for name in ADDRESSES]
    found = judged(*hosts, network=Network("full", 8442, 1))
    late = [one.found for one in found if one.status == preflight.DEFERRED]
    assert len(late) == len(PAIRS)
    assert "not measured: its turn is 2, and preflight_network_turns is 1" in late
    assert "not measured: the transfer gave no result" in late


def test_without_full_no_bandwidth_and_with_off_nothing() -> None:
    hosts = [host(name, transfers=[]) for name in ADDRESSES]
    names = {one.name for one in judged(*hosts, network=Network("latency"))}
    assert "rtt_ms" in names
    assert "bandwidth_mbps" not in names
    (only,) = [one for one in judged(*hosts, network=Network("off")) if one.name == "network"]
    assert only.status == SKIPPED


def test_a_port_that_is_taken_is_said_once() -> None:
    taken = host("inference-1", listen={"10.0.0.2": "another process has this port"})
    refused = measured("inference-1", "inference", blocked="tcp", problem="closed")
    (only,) = wrong(taken, host("gateway-1", probes=[refused]))
    assert only.startswith(
        "inference-1 port: it cannot listen on 10.0.0.2 port 8442: another process"
    )
