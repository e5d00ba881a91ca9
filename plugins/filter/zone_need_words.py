# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: zone_need_words
short_description: One line that says which need of a site is cut off
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns who does not reach what, and why it must.
options:
  _input:
    description: A connection as P(onprem.deepseek.zone_needs#filter) returns it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show which clients are cut off
  ansible.builtin.debug:
    msg: "{{ tried.refused | map('onprem.deepseek.zone_need_words') }}"
"""

RETURN = r"""
_value:
  description: The line.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.zones.evidence import need_words


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"zone_need_words": need_words}
