# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: own_wheel
short_description: The wheel of the serving package on the controller, compared with its source
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns the wheel that M(onprem.deepseek.serving_wheel) built into a directory, and in what it differs from the source of this
    collection. It may have been built on another machine.
options:
  _input:
    description: Directory of the wheel.
    type: str
    required: true
  source_dir:
    description: Directory of the source.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse a wheel of another version of the collection
  ansible.builtin.assert:
    that: (wheels ~ '/package' | onprem.deepseek.own_wheel('serving')).problems | length == 0
"""

RETURN = r"""
_value:
  description:
    - The keys V(name) (of the file), V(sha256), V(requirement) (the line of a lock that pins it) and V(problems) (sentences).
  type: dict
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.serving import own_wheel as serving


def own_wheel(directory: str, source_dir: str) -> dict[str, Any]:
    """Return the wheel in a directory, and what is wrong with it."""
    try:
        wheel = serving.own_wheel(Path(str(directory)), Path(str(source_dir)))
    except OSError as error:
        raise AnsibleFilterError(f"own_wheel: {error}") from error
    return {
        "name": wheel.name,
        "sha256": wheel.sha256,
        "requirement": wheel.requirement,
        "problems": list(wheel.problems),
    }


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"own_wheel": own_wheel}
