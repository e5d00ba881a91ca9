# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: served_releases
short_description: The record of what a host has served, with what it serves now
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns the releases of a record with what is served now at the end. The last ten are kept.
options:
  _input:
    description: The record, in base64 as M(ansible.builtin.slurp#module) reads it; empty for none.
    type: str
    required: true
  labels:
    description: What is served now, each as C(model/version).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show what would be recorded
  ansible.builtin.debug:
    msg: "{{ record.content | default('') | onprem.deepseek.served_releases(['my-model/1.1.0']) }}"
"""

RETURN = r"""
_value:
  description: The releases, what is served now last. What was served together is a list of its own.
  type: list
  elements: raw
"""

from collections.abc import Callable, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.store.served import (
    releases_of,
    with_releases,
)


def served_releases(content: str, labels: Sequence[str]) -> list[str | list[str]]:
    """Return the releases of a record with what is served now."""
    try:
        return with_releases(releases_of(content), labels)
    except ValueError as error:
        raise AnsibleFilterError(
            f"served.json: {error}. Correct or remove the file, then run onprem.deepseek.site, which writes it."
        ) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"served_releases": served_releases}
