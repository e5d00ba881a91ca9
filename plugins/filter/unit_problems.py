# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: unit_problems
short_description: What is wrong with systemd's units of this collection
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Takes what C(systemctl show --property=Id,LoadState,UnitFileState,ActiveState,Result) prints of units, and returns what is wrong.
  - Every timer, and every unit that is expected, must be started at boot and be active; no unit's last run may have failed.
options:
  _input:
    description: The text.
    type: str
    required: true
  expected:
    description: Units that must be there.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ shown.stdout | onprem.deepseek.unit_problems(['deepseek-store-scrub.timer']) }}"
"""

RETURN = r"""
_value:
  description: One line for each fault.
  type: list
  elements: str
"""

from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.common import units


def unit_problems(shown: str, expected: Sequence[str] = ()) -> list[str]:
    """Return what is wrong with the units."""
    return list(units.problems(str(shown), list(expected)))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"unit_problems": unit_problems}
