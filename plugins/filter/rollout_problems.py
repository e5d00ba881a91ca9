# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: rollout_problems
short_description: Where the list of releases and the records of rollouts say different things
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Finds canaries of the list that were rolled back or promoted, and canaries that have a share and are not in the list.
options:
  _input:
    description: What the files of the records hold.
    type: list
    elements: str
    required: true
  releases:
    description: What filter P(onprem.deepseek.releases#filter) gives.
    type: list
    elements: dict
    required: true
  retry:
    description: Whether a canary that was rolled back is to be tried again.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show what does not agree
  ansible.builtin.debug:
    msg: "{{ records | onprem.deepseek.rollout_problems(groups['inference'] | onprem.deepseek.releases(hostvars)) }}"
"""

RETURN = r"""
_value:
  description: One mapping for each, with C(where), C(what) and C(remedy).
  type: list
  elements: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.disagreements import (
    disagreements,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.record import (
    RecordError,
    from_json,
)


def rollout_problems(
    records: Sequence[str], releases: Sequence[Mapping[str, Any]], retry: bool = False
) -> list[dict[str, str]]:
    """Return where the records and the list disagree."""
    found = []
    for text in records:
        try:
            problems = list(disagreements(from_json(text.encode()), releases, retry))
        except RecordError as error:
            found.append(
                {
                    "where": "rollout",
                    "what": f"a record cannot be read: {error}",
                    "remedy": "Restore it",
                }
            )
            continue
        found += [one.as_dict() for one in problems]
    return found


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"rollout_problems": rollout_problems}
