# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: zone_report
short_description: What all hosts found out about the zones, in one document
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns the zones and flows with how often each flow was used, how many connections between each two zones were let through and
    stopped, what each host enforces and denied, and everything that is not as it must be.
options:
  _input:
    description:
      - The site, a mapping with C(zones), C(flows) and C(standard) (flows, too) as role P(onprem.deepseek.network_segmentation#role) has
        them; C(groups), the names of all groups of the inventory; and C(hosts), for each a list of its name, its groups, its addresses by
        zone and its IPv6 addresses by zone.
    type: dict
    required: true
  evidence:
    description: What each host found, by its name, as P(onprem.deepseek.network_segmentation#role) collects it.
    type: dict
    required: true
  made:
    description: When the report is made.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Put it together
  ansible.builtin.set_fact:
    report: "{{ site | onprem.deepseek.zone_report(found, now(utc=true).strftime('%Y-%m-%dT%H:%M:%SZ')) }}"
"""

RETURN = r"""
_value:
  description: The document. Its C(wrong) has one line for each thing that is not as it must be.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.zones.evidence import report
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.reading import read


def zone_report(
    site: Mapping[str, Any], evidence: Mapping[str, Mapping[str, Any]], made: str
) -> dict[str, Any]:
    """Return the document."""
    try:
        matrix, _unused = read(site)
        return report(matrix, evidence, made)
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"zone_report: not described as expected: {error!r}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"zone_report": zone_report}
