# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: site_problems
short_description: What is wrong with the variables of hosts
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Judges the site variables and the roles' variables of hosts, as preflight does.
options:
  _input:
    description: What lookup P(onprem.deepseek.site_variables#lookup) returns.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what is wrong with the variables
  ansible.builtin.debug:
    msg: "{{ query('onprem.deepseek.site_variables', *groups['all']) | onprem.deepseek.site_problems }}"
"""

RETURN = r"""
_value:
  description: One line for each thing that is wrong, with a remedy.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.preflight import inventory
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.check import Host


def site_problems(said: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with the variables of hosts."""
    hosts = [
        Host(
            name=one["name"],
            addresses=one["values"].get("deepseek_zone_addresses"),
            variables=one["values"],
            unread=one["unread"],
            role_problems=one["role_problems"],
        )
        for one in said
    ]
    return [str(problem) for problem in inventory.variable_problems(hosts)]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"site_problems": site_problems}
