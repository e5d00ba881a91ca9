# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: finding_lines
short_description: What is wrong with a host, in one line each
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Says of each finding where it is, what is wrong and what to do.
options:
  _input:
    description: Findings, each with C(where), C(what) and C(remedy), as M(onprem.deepseek.nvidia_driver_info) returns its C(problems).
    type: list
    elements: dict
    required: true
  host:
    description: The host that they are of.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show what stands in the way of the driver
  ansible.builtin.debug:
    msg: "{{ driver.problems | onprem.deepseek.finding_lines(inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: One line for each finding.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.common.findings import Finding


def finding_lines(findings: Sequence[Mapping[str, Any]], host: str) -> list[str]:
    """Return one line for each finding."""
    try:
        return [
            str(Finding(f"{host}, {one['where']}", one["what"], one["remedy"])) for one in findings
        ]
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(f"finding_lines: not described as expected: {error!r}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"finding_lines": finding_lines}
