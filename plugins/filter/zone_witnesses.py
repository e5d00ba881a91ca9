# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: zone_witnesses
short_description: Which hosts look at a host while its packet filter changes
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns the hosts that follow one in a list, from the beginning again after the end, so that each host looks at as many.
options:
  _input:
    description: Names of the hosts of the play.
    type: list
    elements: str
    required: true
  host:
    description: The host whose packet filter changes.
    type: str
    required: true
  count:
    description: How many look, at most.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Show who looks at this host
  ansible.builtin.debug:
    msg: "{{ ansible_play_hosts | onprem.deepseek.zone_witnesses(inventory_hostname, 2) }}"
"""

RETURN = r"""
_value:
  description: Names of the hosts that look.
  type: list
  elements: str
"""

from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.zones.witnesses import witnesses


def zone_witnesses(hosts: Sequence[str], host: str, count: int | str) -> list[str]:
    """Return the hosts that look at a host."""
    return witnesses(hosts, host, int(count))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"zone_witnesses": zone_witnesses}
