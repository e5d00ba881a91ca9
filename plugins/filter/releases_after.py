# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: releases_after
short_description: The list of releases that a site has when the rollout of a canary is over
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns C(deepseek_releases) without the canary's entry. Its workers go to the entry of the model that stays.
options:
  _input:
    description: The list as the inventory has it, C(deepseek_releases).
    type: list
    elements: dict
    required: true
  canary:
    description: What filter P(onprem.deepseek.canary#filter) gives.
    type: dict
    required: true
  outcome:
    description: V(promoted) gives the entry that stays the canary's version, V(rolled_back) leaves it its own.
    type: str
    choices: [promoted, rolled_back]
    required: true
"""

EXAMPLES = r"""
- name: Show what the inventory must have after a promotion
  ansible.builtin.debug:
    msg: "{{ deepseek_releases | onprem.deepseek.releases_after(canary, 'promoted') }}"
"""

RETURN = r"""
_value:
  description: The list.
  type: list
  elements: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.canaries import (
    OUTCOMES,
    list_after,
)


def releases_after(
    listed: Sequence[Mapping[str, Any]], canary: Mapping[str, Any], outcome: str
) -> list[dict[str, Any]]:
    """Return the list without the canary's entry."""
    if outcome not in OUTCOMES:
        raise AnsibleFilterError(f"releases_after: the outcome is one of {', '.join(OUTCOMES)}")
    return list_after(listed, canary, outcome)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"releases_after": releases_after}
