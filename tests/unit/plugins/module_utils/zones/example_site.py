# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The zones and hosts of the example site, and what its services need."""

from __future__ import annotations

import copy
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import role_exports

# What a site needs, written down here a second time: a role that exports less than this is wrong.
READERS = ["storage/inference", "storage/release", "storage/storage"]
SERVES = {
    "client_zones": ["clients", "service"],
    "flows": [
        {
            "from": ["clients", "service"],
            "to": ["service/gateway"],
            "ports": [443],
            "why": "clients ask the gateways",
        },
        {
            "from": ["inference/gateway"],
            "to": ["inference/inference"],
            "ports": [8000],
            "why": "gateways ask workers",
        },
        {
            "from": READERS,
            "to": ["storage/storage"],
            "ports": [8443],
            "why": "models and wheels are read",
        },
        {
            "from": READERS,
            "to": ["storage/release"],
            "ports": [8443],
            "why": "models and wheels are read",
        },
    ],
}
ADDRESSES = {
    "gateway-1": ("gateway", {"management": 11, "service": 11, "inference": 11}),
    "gateway-2": ("gateway", {"management": 12, "service": 12, "inference": 12}),
    "inference-1": ("inference", {"management": 21, "inference": 21, "storage": 21}),
    "storage-1": ("storage", {"management": 31, "storage": 31}),
    "storage-2": ("storage", {"management": 32, "storage": 32}),
}
OCTETS = {"management": 10, "service": 20, "inference": 30, "storage": 40}


PORTS = {
    "{{ network_segmentation_ssh_port }}": 22,
    "{{ deepseek_gateway_port }}": 443,
    "{{ gateway_metrics_port }}": 8405,
    "{{ gateway_metrics_port | default(release_rollout_port) }}": 8405,
    "{{ deepseek_storage_port }}": 8443,
    "{{ preflight_network_port }}": 8442,
    "{{ offline_bundle_port }}": 8480,
}


def standard_flows() -> list[dict[str, Any]]:
    """What the roles export, with its templates filled in."""
    found = []
    for _role, flow in role_exports.flows():
        ports = flow.get("ports", [])
        # an expression gives all ports of the workers
        filled = [8000] if isinstance(ports, str) else [PORTS.get(port, port) for port in ports]
        found.append({**flow, "ports": filled} if ports else flow)
    return found


def site(**changes: Any) -> dict[str, Any]:
    """As inventories/production.example has it: without a zone for clients or an HSM."""
    made: dict[str, Any] = {
        "zones": {name: {"networks": [f"10.1.{octet}.0/24"]} for name, octet in OCTETS.items()},
        "flows": [],
        "standard": standard_flows(),
        "groups": ["gateway", "inference", "storage", "release"],
        "hosts": [
            [
                name,
                [group],
                {zone: f"10.1.{OCTETS[zone]}.{last}" for zone, last in zones.items()},
                {},
            ]
            for name, (group, zones) in ADDRESSES.items()
        ],
    }
    made["zones"]["management"]["ranges"] = {
        "controllers": ["10.1.10.1"],
        "infrastructure": ["10.1.10.2"],
    }
    return {**made, **copy.deepcopy(changes)}
