# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: locked_for
short_description: The part of a requirements lock that applies to one Python version
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Takes the text of a lock in the format of pip's requirements files, with hashes, and returns the requirements that
    apply to CPython of the given version on Linux, without their markers.
  - pip evaluates markers for the interpreter that runs it. This filter makes it possible to download wheels
    for another Python version than that of the controller.
options:
  _input:
    description: Text of the lock.
    type: str
    required: true
  python:
    description: Python version, such as V(3.13).
    type: str
    required: true
  machine:
    description: Machine type as C(uname -m) prints it.
    type: str
    default: x86_64
  only:
    description: Names of packages; no others are returned. Without it, all are.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Keep what Debian 13 needs
  ansible.builtin.copy:
    content: "{{ lookup('ansible.builtin.file', 'requirements.txt') | onprem.deepseek.locked_for('3.13') }}"
    dest: requirements-3.13.txt
    mode: "0644"
"""

RETURN = r"""
_value:
  description: Text of the requirements that apply, in pip's format, each with its hashes.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.serving.lockfile import (
    LockError,
    applicable,
)


def locked_for(
    lock: str, python: str, machine: str = "x86_64", only: list[str] | None = None
) -> str:
    """Return the requirements of a lock that apply to one Python version."""
    try:
        chosen = [
            requirement
            for requirement in applicable(str(lock), python, machine)
            if only is None or requirement.pin.partition("==")[0] in only
        ]
    except LockError as error:
        raise AnsibleFilterError(f"locked_for: {error}") from error
    return "".join(requirement.text() for requirement in chosen)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"locked_for": locked_for}
