# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: zone_probes
short_description: The connections that a host tries to see whether zones are kept apart
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns every connection that one host is to try, from each of its addresses to each address of the others, with every port of every
    flow, one that no flow has, and ICMP echo; each with whether the matrix lets it through.
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
  targets_per_kind:
    description: Hosts that are tried of each kind. Hosts with the same groups and zones are of one kind.
    type: int
    default: 8
"""

EXAMPLES = r"""
- name: Try all that concerns this host
  onprem.deepseek.zone_probe:
    probes: "{{ site | onprem.deepseek.zone_probes(inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description:
    - Mappings with C(host), C(source), C(source_zone), C(target_host), C(target), C(target_zone), C(protocol), C(port), C(allowed) and
      C(flow).
  type: list
  elements: dict
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.zones.evidence import probes
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.reading import read


def zone_probes(
    site: Mapping[str, Any], host: str, targets_per_kind: int = 8
) -> list[dict[str, Any]]:
    """Return what the host is to try."""
    try:
        matrix, _unused = read(site)
        return [asdict(probe) for probe in probes(matrix, matrix.host(host), int(targets_per_kind))]
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"zone_probes: not described as expected: {error!r}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"zone_probes": zone_probes}
