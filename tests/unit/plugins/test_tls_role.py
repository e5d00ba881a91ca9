# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role tls permits its CA to sign, from the inventory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from played import HERE, KEPT_PYTHON, passed

from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.constraints import subtrees_of

ROOT = Path(__file__).resolve().parents[3]
HOSTS: dict[str, dict[str, Any]] = {
    "gateway-1.dc1.example.org": {
        "deepseek_zone_addresses": {"management": "10.1.0.11", "service": "198.51.100.7"},
        "tls_gateway_names": ["DNS:{{ deepseek_service_name }}", "DNS:*.ai.test", "IP:203.0.113.9"],
    },
    "inference-1": {"deepseek_zone_addresses": {"management": "2001:db8:7::21"}},
    "inference-2.local": {"deepseek_zone_addresses": {"management": "10.1.0.22"}},
    "release-1": {"deepseek_zone_addresses": {"management": "10.9.9.41"}},
}
GROUPS = {"gateway": 0, "inference": 1, "storage": 2, "release": 3}


def permitted(directory: Path, **variables: Any) -> list[str]:
    """The role's own expression on its release host, and what the extension makes of it."""
    role = directory / "roles/rendered"
    (role / "tasks").mkdir(parents=True)
    for part in ("defaults", "vars"):
        (role / part).symlink_to(ROOT / "roles/tls" / part)
    written = {"content": "{{ __tls_permitted | to_json }}", "dest": str(directory / "permitted")}
    (role / "tasks/main.yml").write_text(yaml.safe_dump([{"ansible.builtin.copy": written}]))
    names = list(HOSTS)
    site = {
        "deepseek_service_name": "deepseek.test",
        **HERE,
        **variables,
    }
    children = {
        group: {"hosts": {names[place]: HOSTS[names[place]]}} for group, place in GROUPS.items()
    }
    (directory / "hosts.yml").write_text(
        yaml.safe_dump({"all": {"vars": site, "children": children}})
    )
    play = {"hosts": "release", "gather_facts": False, "roles": ["rendered"]}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    passed(
        directory / "play.yml",
        inventory=directory / "hosts.yml",
        ANSIBLE_ROLES_PATH=str(directory / "roles"),
        **KEPT_PYTHON,
    )
    return subtrees_of(json.loads((directory / "permitted").read_text())).texts


def test_the_ca_may_sign_the_inventory_and_what_is_likely_to_follow(tmp_path: Path) -> None:
    found = permitted(
        tmp_path,
        tls_permitted_domains=["dc2.example.org"],
        tls_permitted_networks=["10.200.0.0/16"],
        deepseek_zones={
            "management": {"networks": ["10.1.0.0/22"], "groups": ["all"]},
            "clients": {"networks": ["172.16.0.0/12"]},
        },
    )
    assert found == [
        # the domain of a name with one, other names alone
        "DNS:ai.test",
        "DNS:dc1.example.org",
        "DNS:dc2.example.org",
        "DNS:deepseek.test",
        "DNS:inference-1",
        "DNS:inference-2.local",
        "DNS:release-1",
        # zones that hosts are in, not those of clients; otherwise what is around an address
        "IP:10.1.0.0/22",
        "IP:10.9.9.0/24",
        "IP:10.200.0.0/16",
        "IP:198.51.100.0/24",
        "IP:203.0.113.0/24",
        "IP:2001:db8:7::/64",
    ]


def test_a_site_that_does_not_want_it_has_none(tmp_path: Path) -> None:
    assert permitted(tmp_path, tls_name_constraints=False) == []
