# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: unlocked_wheels
short_description: Wheels that a requirements lock does not name
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Takes a list of SHA-256 sums as C(sha256sum) writes it, and returns the names of the files whose sum is no hash of the lock.
options:
  _input:
    description: Text of the list.
    type: str
    required: true
  lock:
    description: Text of the lock, in the format of pip's requirements files, with hashes.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse wheels that the lock does not name
  ansible.builtin.assert:
    that: >-
      lookup('ansible.builtin.file', 'wheels/SHA256SUMS')
      | onprem.deepseek.unlocked_wheels(lookup('ansible.builtin.file', 'requirements.txt')) | length == 0
"""

RETURN = r"""
_value:
  description: Names of files.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.serving.lockfile import (
    LockError,
    unlocked,
)


def unlocked_wheels(sums: str, lock: str) -> list[str]:
    """Return the files of a list of sums that a lock does not name."""
    try:
        return unlocked(str(sums), str(lock))
    except LockError as error:
        raise AnsibleFilterError(f"unlocked_wheels: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"unlocked_wheels": unlocked_wheels}
