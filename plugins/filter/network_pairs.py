# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: network_pairs
short_description: Which hosts of an inventory have to measure the network to which
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns each pair of hosts between which data flows (gateway to inference, inference and release to storage, storage to storage), as an
    element of O(onprem.deepseek.network_probe#module:targets) with the C(client) that measures and the C(turn) in which it can transfer
    without another transfer on either host.
  - A pair of which one host does not have its address is left out.
options:
  _input:
    description: For each host what M(onprem.deepseek.host_info) returns as C(nics).
    type: dict
    required: true
  groups:
    description: The hosts of each group of the inventory.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show who measures what
  ansible.builtin.debug:
    msg: "{{ nics | onprem.deepseek.network_pairs(groups) }}"
"""

RETURN = r"""
_value:
  description: One mapping for each pair, with C(client), C(turn), and C(target), which has C(name), C(zone), C(address), C(source) and C(mtu).
  type: list
  elements: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.pairs import pairs, targets


def network_pairs(
    nics: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Return who measures what, and when."""
    return [
        {"client": pair.client, "turn": pair.turn, "target": target}
        for pair, target in targets(pairs(groups), nics)
    ]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"network_pairs": network_pairs}
