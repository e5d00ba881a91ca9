# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: canary
short_description: The canary of a site's releases
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns the release with a share, and the stable release beside it.
  - Fails where there is none, and where there are several and no model is named.
options:
  _input:
    description: What filter P(onprem.deepseek.releases#filter) gives.
    type: list
    elements: dict
    required: true
  model:
    description: The model; needed where several have a canary.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show the canary
  ansible.builtin.debug:
    msg: "{{ (groups['inference'] | onprem.deepseek.releases(hostvars) | onprem.deepseek.canary).label }}"
"""

RETURN = r"""
_value:
  description: The canary as filter P(onprem.deepseek.releases#filter) gives it, and as C(stable) the other release of its model.
  type: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.canaries import canary_of


def canary(releases: Sequence[Mapping[str, Any]], model: str = "") -> dict[str, Any]:
    """Return the canary of the releases, or of a model among them."""
    try:
        return canary_of(releases, model)
    except ValueError as error:
        raise AnsibleFilterError(f"canary: {error}.") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"canary": canary}
