# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: verdict
short_description: What is wrong with the hosts of a run, and what was never asked
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Takes what each host of a play was asked and what was found, and returns one verdict.
  - A question that was not asked is a fault, whether the host did not answer, the options C(--tags) or C(--start-at-task) left it out, or the
    run has no host to ask.
options:
  _input:
    description: The names of the hosts of the play, those that dropped out of it too (C(ansible_play_hosts_all)).
    type: list
    elements: str
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
    required: true
  groups:
    description: The hosts of each group of the inventory.
    type: dict
    required: true
  name:
    description:
      - The beginning of the names of the facts on each host. C(__NAME_asked) is the list of questions that were asked, C(__NAME_problems) what is
        wrong, and C(__NAME_answer) the result of the first task, by which it is known whether the host can be used.
    type: str
    required: true
  questions:
    description: For each group, the questions that its hosts must have been asked.
    type: dict
    required: true
  needed:
    description: Groups that must have hosts.
    type: list
    elements: str
    default: []
  dropped:
    description: The hosts that dropped out of the run. Facts that they have may be those of an earlier play.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Expect that nothing is wrong
  ansible.builtin.assert:
    that: found.wrong | length == 0
    fail_msg: "{{ found.wrong }}"
  vars:
    found: "{{ ansible_play_hosts_all | onprem.deepseek.verdict(hostvars, groups, 'verify', {'all': ['tls']}) }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
_value:
  description: C(wrong), one line for each fault; the hosts that were C(asked), and those of the inventory that were C(left_out) of the run.
  type: dict
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.common.verdict import verdict_of

FACTS = ("asked", "problems", "answer")


def verdict(
    hosts: Iterable[str],
    hostvars: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
    name: str,
    questions: Mapping[str, Sequence[str]],
    needed: Sequence[str] = (),
    dropped: Iterable[str] = (),
) -> dict[str, Any]:
    """Return what is wrong with the hosts of a play."""
    facts = {
        host: {fact: hostvars[host].get(f"__{name}_{fact}") for fact in FACTS} for host in hosts
    }
    found = asdict(verdict_of(facts, groups, questions, needed, frozenset(dropped)))
    return {key: list(value) for key, value in found.items()}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"verdict": verdict}
