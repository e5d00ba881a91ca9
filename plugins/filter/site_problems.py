# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: site_problems
short_description: Everything that is wrong with an inventory and its hosts
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Takes what is known of the hosts, and returns one line for each thing that would make a rollout fail. Each line says
    where it is, what it is and what to do about it.
  - Role P(onprem.deepseek.preflight#role) collects what the filter needs.
options:
  _input:
    description:
      - One mapping for each host, with its C(name), its C(addresses) by zone, its site C(variables), its C(facts) or the
        C(error) that stood in the way, its C(clock_offset) in seconds, and the bytes that are C(free) and C(needed) for the
        store.
    type: list
    elements: dict
    required: true
  groups:
    description: The hosts of each group of the inventory.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ groups['all'] | map('extract', hostvars, 'preflight_host') | onprem.deepseek.site_problems(groups) }}"
"""

RETURN = r"""
_value:
  description: One line for each problem, empty when there is none.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.site import Host, problems


def site_problems(
    hosts: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return one line for each thing that is wrong."""
    try:
        described = [Host(**host) for host in hosts]
    except TypeError as error:
        raise AnsibleFilterError(
            f"site_problems: a host is not described as expected: {error}"
        ) from error
    return [str(problem) for problem in problems(groups, described)]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"site_problems": site_problems}
