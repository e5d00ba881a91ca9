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
      | onprem.deepseek.unlocked_wheels(lookup('ansible.builtin.file', 'requirements-py3.13.txt')) | length == 0
"""

RETURN = r"""
_value:
  description: Names of files.
  type: list
  elements: str
"""

import re
from collections.abc import Callable
from typing import Any


def unlocked_wheels(sums: str, lock: str) -> list[str]:
    """Return the files of a list of sums that a lock does not name."""
    known = set(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", str(lock)))
    lines = [line.partition("  ") for line in str(sums).split("\n") if line.strip()]
    return [name or digest for digest, _blanks, name in lines if digest not in known]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"unlocked_wheels": unlocked_wheels}
