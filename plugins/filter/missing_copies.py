# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: missing_copies
short_description: Which storage hosts lack a release that they are to hold
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Judges the copies on all storage hosts together. Which hosts are to hold a release is what P(onprem.deepseek.holders#filter) says.
options:
  _input:
    description: Names of the storage hosts, as in the inventory.
    type: list
    elements: str
    required: true
  held:
    description: For each host that said so, the releases of which it has a whole copy, as P(onprem.deepseek.storage_findings#filter) returns them.
    type: dict
    required: true
  asked:
    description: The hosts that are judged.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show what is missing
  ansible.builtin.debug:
    msg: "{{ groups['storage'] | onprem.deepseek.missing_copies({'storage-1': {'m/1.0.0': 'digest'}}, groups['storage']) }}"
"""

RETURN = r"""
_value:
  description: One line for each copy that is missing.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.store.health import missing_copies


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"missing_copies": missing_copies}
