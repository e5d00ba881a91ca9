# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: usable_name
short_description: Whether a model or version can have a name
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - A name is one component of paths and URLs; it begins with a letter or digit and has at most 128 letters, digits, dots, underscores and hyphens.
options:
  _input:
    description: The name.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse a version that nothing can be published under
  ansible.builtin.assert:
    that: cache_version | onprem.deepseek.usable_name
"""

RETURN = r"""
_value:
  description: Whether the name can be used.
  type: bool
"""

import re
from collections.abc import Callable
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import NAME


def usable_name(name: str) -> bool:
    """Return whether a model or version can have this name."""
    return re.fullmatch(NAME, str(name)) is not None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"usable_name": usable_name}
