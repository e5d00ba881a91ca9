# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: zone_problems
short_description: Everything that is wrong with the zones of a site
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns one line for each thing that is wrong with zones, flows and hosts - overlapping networks, a host in no zone, a flow to an
    unknown zone, a port out of range, an address family without a rule, a controller that would lock itself out. Each line says where it
    is, what it is and what to do about it.
options:
  _input:
    description:
      - The site, a mapping with C(zones), C(flows) and C(standard) (flows, too) as role P(onprem.deepseek.network_segmentation#role) has
        them; C(groups), the names of all groups of the inventory; and C(hosts), for each a list of its name, its groups, its addresses by
        zone and its IPv6 addresses by zone.
    type: dict
    required: true
  connections:
    description:
      - For each host by name, what it has in C(SSH_CONNECTION) - the controller's address and port as the host sees them, and its own.
        Empty for one that is not reached by SSH.
    type: dict
    default: {}
  interfaces:
    description: For each host by name, what C(ip -json address) says.
    type: dict
    default: {}
  serves:
    description:
      - What the site's services need, as P(onprem.deepseek.zone_needs#filter) takes it. Each need that no flow lets through is a problem.
    type: dict
  dependencies:
    description: For each host by name, what M(onprem.deepseek.zone_dependencies) returns as C(dependencies).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ site | onprem.deepseek.zone_problems }}"
"""

RETURN = r"""
_value:
  description: One line for each problem, empty when there is none.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.zones.checks import (
    access_problems,
    interface_problems,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.needs import (
    dependency_problems,
    need_problems,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.reading import read


def zone_problems(
    site: Mapping[str, Any],
    connections: Mapping[str, str] | None = None,
    interfaces: Mapping[str, Any] | None = None,
    serves: Mapping[str, Any] | None = None,
    dependencies: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return one line for each thing that is wrong."""
    try:
        matrix, found = read(site)
        found += access_problems(matrix, connections or {})
        found += interface_problems(matrix, interfaces or {})
        found += need_problems(matrix, serves) if serves else []
        found += dependency_problems(matrix, dependencies or {})
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"zone_problems: not described as expected: {error!r}") from error
    return list(dict.fromkeys(str(problem) for problem in found))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"zone_problems": zone_problems}
