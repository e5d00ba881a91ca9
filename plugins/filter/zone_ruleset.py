# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: zone_ruleset
short_description: The nftables table with which a host enforces the zones
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns the table C(inet deepseek_zones) of one host, as M(onprem.deepseek.nftables_ruleset) loads it.
  - It holds only what concerns the host. Addresses are looked up in interval maps, so it does not grow with pairs of hosts.
options:
  _input:
    description:
      - The site, a mapping with C(zones), C(flows) and C(standard) (flows, too) as role P(onprem.deepseek.network_segmentation#role) has
        them; C(groups), the names of all groups of the inventory; and C(hosts), for each a list of its name, its groups, its addresses by
        zone and its IPv6 addresses by zone.
    type: dict
    required: true
  host:
    description: Name of the host.
    type: str
    required: true
  ssh_port:
    description: Port at which the controller reaches it. Connections to it from the management zone are accepted before all else.
    type: int
    default: 22
  log_per_minute:
    description: Denied packets that are logged per minute, for each zone and direction. All are counted.
    type: int
    default: 30
  closed:
    description:
      - Return the table that stands while the host's own cannot be loaded instead - administration, and what an interface needs to come up.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show what this host would enforce
  ansible.builtin.debug:
    msg: "{{ site | onprem.deepseek.zone_ruleset(inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: The table.
  type: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.zones.reading import read
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.ruleset import (
    closed_ruleset,
    ruleset,
)


def zone_ruleset(
    site: Mapping[str, Any],
    host: str,
    ssh_port: int = 22,
    log_per_minute: int = 30,
    closed: bool = False,
) -> str:
    """Return the host's table."""
    try:
        matrix, _unused = read(site)
        if closed:
            return closed_ruleset(matrix, matrix.host(host), int(ssh_port))
        return ruleset(matrix, matrix.host(host), int(ssh_port), int(log_per_minute))
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"zone_ruleset: not described as expected: {error!r}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"zone_ruleset": zone_ruleset}
