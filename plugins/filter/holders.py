# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: holders
short_description: Which storage hosts hold a release
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Chooses three of the hosts by rendezvous hashing of their names, so that everybody chooses the same, releases are spread evenly,
    and a new host takes over only what it is to hold.
  - With three hosts or fewer, all of them hold every release.
options:
  _input:
    description: Names of the storage hosts, as in the inventory.
    type: list
    elements: str
    required: true
  release:
    description: The release, as V(model/version).
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show who holds the active release
  ansible.builtin.debug:
    msg: "{{ groups['storage'] | onprem.deepseek.holders(deepseek_model_name ~ '/' ~ deepseek_model_version) }}"
"""

RETURN = r"""
_value:
  description: Names of the hosts that hold it, the first choice first.
  type: list
  elements: str
"""

from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.store.placement import (
    holders as chosen,
)


def holders(hosts: Sequence[str], release: str) -> list[str]:
    """Return the names of the hosts that hold the release."""
    return chosen(release, hosts)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"holders": holders}
