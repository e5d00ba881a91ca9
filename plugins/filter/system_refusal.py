# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: system_refusal
short_description: Why the operating system of a host is refused
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Reads the one table of systems, which preflight judges hosts by.
options:
  _input:
    description: Facts of the host, at least C(distribution), C(distribution_version) and C(distribution_major_version).
    type: dict
    required: true
  accepts_untested:
    description: Whether the site accepts systems on which no role was tested.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Refuse a system that was not tested
  ansible.builtin.assert:
    that: (ansible_facts | onprem.deepseek.system_refusal).says == ''
"""

RETURN = r"""
_value:
  description: What the host has and why it is refused (C(says)), and the C(remedy); both are empty where the system is accepted.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.systems import judged


def system_refusal(facts: Mapping[str, Any], accepts_untested: bool = False) -> dict[str, str]:
    """Return why the system that these facts describe is refused."""
    verdict = judged(facts, accepts_untested is True)
    says = f"it runs {verdict.name}: {verdict.refused}" if verdict.refused else ""
    return {"says": says, "remedy": verdict.remedy}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"system_refusal": system_refusal}
