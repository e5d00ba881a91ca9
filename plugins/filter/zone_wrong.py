# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: zone_wrong
short_description: The probes that did not come out as the zones have it
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns one line for each probe that is denied and was reached, or is let through and was not.
options:
  _input:
    description: Probes, as P(onprem.deepseek.zone_probes#filter) returns them.
    type: list
    elements: dict
    required: true
  outcomes:
    description: What M(onprem.deepseek.zone_probe) says of them, in their order.
    type: list
    elements: str
    required: true
  before:
    description: Probes that reached their target at an earlier time. If given, no others need do so now.
    type: list
    elements: dict
"""

EXAMPLES = r"""
- name: Show what is not as the zones have it
  ansible.builtin.debug:
    msg: "{{ probes | onprem.deepseek.zone_wrong(tried.outcomes) }}"
"""

RETURN = r"""
_value:
  description: One line for each, empty when all is as it must be.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.zones.evidence import wrong


def zone_wrong(
    probes: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    before: Sequence[Mapping[str, Any]] | None = None,
) -> list[str]:
    """Return one line for each probe that came out otherwise."""
    if len(outcomes) != len(probes):
        raise AnsibleFilterError("zone_wrong: there must be an outcome for each probe")
    return wrong(probes, outcomes, before)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"zone_wrong": zone_wrong}
