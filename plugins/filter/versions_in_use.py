# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: versions_in_use
short_description: The versions of a model that must not be retired
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - The versions that the inventory names, and what each host serves and has served before that, which is what it would go back to.
options:
  _input:
    description: The record of each host, in base64 as M(ansible.builtin.slurp#module) reads it.
    type: list
    elements: str
    required: true
  model:
    description: The name of the model.
    type: str
    required: true
  active:
    description: The versions of the model that the inventory names.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show what must stay
  ansible.builtin.debug:
    msg: "{{ records | onprem.deepseek.versions_in_use('my-model', ['1.1.0']) }}"
"""

RETURN = r"""
_value:
  description: The versions, the active ones first.
  type: list
  elements: str
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.store import served


def versions_in_use(records: Iterable[str], model: str, active: Sequence[str]) -> list[str]:
    """Return the versions of a model that are in use."""
    try:
        return served.versions_in_use([served.releases_of(one) for one in records], model, active)
    except ValueError as error:
        raise AnsibleFilterError(
            f"served.json of a host of the group 'inference': {error}. Correct or remove the file, then run onprem.deepseek.site."
        ) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"versions_in_use": versions_in_use}
