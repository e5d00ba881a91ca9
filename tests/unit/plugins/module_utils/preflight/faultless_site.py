# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site of five hosts that preflight finds nothing wrong with, and changes of one thing in it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.preflight import report as preflight
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.pairs import pairs
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.report import (
    Check,
    Host,
    Network,
    checks,
)

GROUPS = {
    "gateway": ["gateway-1"],
    "inference": ["inference-1"],
    "storage": ["storage-1", "storage-2", "storage-3"],
    "release": ["inference-1"],
}
ADDRESSES = {
    "gateway-1": {"management": "10.0.1.1", "service": "10.0.2.1", "inference": "10.0.3.1"},
    "inference-1": {"management": "10.0.1.2", "inference": "10.0.3.2", "storage": "10.0.4.2"},
    "storage-1": {"management": "10.0.1.3", "storage": "10.0.4.3"},
    "storage-2": {"management": "10.0.1.4", "storage": "10.0.4.4"},
    "storage-3": {"management": "10.0.1.5", "storage": "10.0.4.5"},
}
SITE = {
    "deepseek_service_name": "deepseek.example.org",
    "deepseek_model_name": "r1",
    "deepseek_model_version": "1.0.0",
    "deepseek_checkpoint": "/srv/import/r1",
    "deepseek_config_dir": "/etc/deepseek",
    "deepseek_tls_dir": "/etc/deepseek/tls",
    "deepseek_release_public_key_file": "/etc/deepseek/release.pub",
    "deepseek_pkcs11_module": "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
    "deepseek_store_dir": "/srv/deepseek/store",
    "deepseek_store_sources": ["https://10.0.4.3:8443"],
    "deepseek_venv_dir": "/opt/deepseek/serving",
    "deepseek_storage_port": 8443,
    "deepseek_inference_port": 8000,
    "deepseek_gateway_port": 443,
}
PAIRS = pairs(GROUPS)


def measured(name: str, zone: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "zone": zone,
        "source": "10.0.0.1",
        "address": "10.0.0.2",
        "port": 8442,
        "mtu": 9000,
        "problem": "",
        "blocked": "",
        "sent": 50,
        "lost": 0,
        "rtt_ms": {"min": 0.1, "median": 0.2, "p99": 1.5, "max": 2.0},
        "path_mtu": 9000,
        "bandwidth_mbps": {"to": 9400.0, "from": 9410.5},
        **changes,
    }


def info(name: str) -> dict[str, Any]:
    return {
        "nics": {
            zone: {
                "address": address,
                "interface": f"eno{place}",
                "mtu": 9000,
                "speed_mbps": 10000,
                "unknown": "",
            }
            for place, (zone, address) in enumerate(ADDRESSES[name].items())
        },
        "clock": {
            "service": "chronyd",
            "max_error_ms": 20.5,
            "synchronised": True,
            "offset_seconds": -0.2,
        },
        "disk": {
            "path": "/srv",
            "size": 2 * 10**12,
            "free": 10**12,
            "read_mb_s": 2500.0,
            "read_from": "/dev/nvme0n1",
            "unknown": "",
        },
        "gpu": {"pci": ["0000:3b:00.0"], "driver": "580.1", "venv": True},
    }


def examined(label: str = "r1/1.0.0", size: int = 10**9, **said: Any) -> dict[str, Any]:
    """What module checkpoint_info says of the checkpoint of a release."""
    entry = {"label": label, "checkpoint": "/srv/import/r1"}
    checkpoint = {"size": size, "problems": [], "read_by_service": True, **said}
    return {"__preflight_entry": entry, "checkpoint": checkpoint}


def host(name: str, /, **changes: Any) -> Host:
    """A host on which nothing is wrong, but for the changes."""
    right = Host(
        name=name,
        addresses=ADDRESSES[name],
        variables={**SITE, "deepseek_zone_addresses": ADDRESSES[name]},
        facts={
            "distribution": "Debian",
            "distribution_major_version": "12",
            "architecture": "x86_64",
            "service_mgr": "systemd",
            "all_ipv4_addresses": list(ADDRESSES[name].values()),
            "all_ipv6_addresses": [],
            "processor_vcpus": 64,
            "memtotal_mb": 515000,
        },
        info=info(name),
        checkpoints=[examined()] if name in GROUPS["release"] else [],
        probes=[measured(pair.server, pair.zone) for pair in PAIRS if pair.client == name],
        transfers=[measured(pair.server, pair.zone) for pair in PAIRS if pair.client == name],
    )
    return dataclasses.replace(right, **changes)


def judged(*changed: Host, network: Network | None = None) -> list[Check]:
    by_name = {one.name: one for one in changed}
    hosts = [by_name.get(name) or host(name) for name in ADDRESSES]
    return checks(GROUPS, hosts, network or Network("full", 8442, 30))


def wrong(*changed: Host, network: Network | None = None) -> list[str]:
    """What failed, in one line each."""
    return [
        f"{check.host} {check.name}: {check.found} | {check.expected} | {check.remedy}"
        for check in judged(*changed, network=network)
        if check.status == preflight.FAILED
    ]


def everywhere(**variables: Any) -> list[Host]:
    return [host(n, variables={**host(n).variables, **variables}) for n in ADDRESSES]


def with_info(name: str, part: str, **changes: Any) -> Host:
    changed = copy.deepcopy(info(name))
    changed[part].update(changes)
    return host(name, info=changed)


def as_mappings(*changed: Host) -> list[dict[str, Any]]:
    by_name = {one.name: one for one in changed}
    return [dataclasses.asdict(by_name.get(name) or host(name)) for name in ADDRESSES]
