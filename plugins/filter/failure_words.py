# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: failure_words
short_description: The words of a failed task itself
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Takes the result of a task that failed, such as C(ansible_failed_result) in a rescue, and returns what it said, each text once.
  - Of a looped task these are the texts of the items that failed, in place of "One or more items failed". Of a program they are its command,
    its code and the last line that it wrote.
options:
  _input:
    description: The result.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Note what is wrong
  ansible.builtin.set_fact:
    wrong: "{{ ansible_failed_result | onprem.deepseek.failure_words }}"
"""

RETURN = r"""
_value:
  description: The texts, at least one.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.common.verdict import failure_words


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"failure_words": failure_words}
