# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: supported_system
short_description: Whether this collection supports the operating system of a host
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Reads the one table of supported systems, which preflight checks hosts by.
options:
  _input:
    description: Facts of the host, at least C(distribution) and C(distribution_major_version).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Refuse a system that was not tested
  ansible.builtin.assert:
    that: ansible_facts | onprem.deepseek.supported_system
"""

RETURN = r"""
_value:
  description: Whether the system is supported.
  type: bool
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.requirements import SYSTEMS


def supported_system(facts: Mapping[str, Any]) -> bool:
    """Return whether the system that these facts describe is supported."""
    return str(facts.get("distribution_major_version")) in SYSTEMS.get(
        str(facts.get("distribution")), ()
    )


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"supported_system": supported_system}
