# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: zone_needs
short_description: Connections to a host without which the site does not serve
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns what must reach one host, from what roles need, for the groups, addresses and ports of the inventory. It does not come from the
    flows of the site, so it finds flows that are missing.
options:
  _input:
    description:
      - The site, a mapping with C(zones), C(flows) and C(standard) (flows, too) as role P(onprem.deepseek.network_segmentation#role) has
        them; C(groups), the names of all groups of the inventory; and C(hosts), for each a list of its name, its groups, its addresses by
        zone and its IPv6 addresses by zone.
    type: dict
    required: true
  serves:
    description:
      - A mapping with C(client_zones), names of zones whose addresses are clients (those that the site does not have do not count), and
        C(flows), those of P(onprem.deepseek.role_exports#lookup) that are C(needed).
    type: dict
    required: true
  host:
    description: Name of the host that is asked.
    type: str
    required: true
  sources:
    description:
      - Only what clients at these addresses need, of those in a zone of clients. Without it, the needs of all hosts and of three addresses
        of each network of clients.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Try whether clients are let in
  onprem.deepseek.zone_simulation:
    table: deepseek_zones
    needs: "{{ site | onprem.deepseek.zone_needs(serves, inventory_hostname) }}"
  vars:
    serves:
      client_zones: [clients, service]
      flows: "{{ query('onprem.deepseek.role_exports', 'flows') | selectattr('needed') }}"
"""

RETURN = r"""
_value:
  description: Connections over TCP, each with C(who), C(source), C(target_host), C(target), C(port) and C(why).
  type: list
  elements: dict
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.zones.needs import clients_at, needs
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.reading import read


def zone_needs(
    site: Mapping[str, Any],
    serves: Mapping[str, Any],
    host: str,
    sources: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Return what must reach the host."""
    try:
        matrix, _unused = read(site)
        asking = None if sources is None else [ipaddress.ip_address(text) for text in sources]
        found = (
            needs(matrix, serves, host) if asking is None else clients_at(matrix, serves, asking)
        )
        return [need.plain() for need in found if need.target_host == host]
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"zone_needs: not described as expected: {error!r}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"zone_needs": zone_needs}
