# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: golden_problems
short_description: Answers to golden prompts that lack what they must have
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Compares answers with what C(golden) of a release says of them.
options:
  _input:
    description: Bodies of the answers, as C(/v1/chat/completions) gives them, in the order of the questions.
    type: list
    elements: dict
    required: true
  golden:
    description: The questions, each a C(prompt) and what an answer C(says).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Verify the answers
  ansible.builtin.assert:
    that: answers.results | map(attribute='json') | onprem.deepseek.golden_problems(golden) | length == 0
"""

RETURN = r"""
_value:
  description: One sentence for each answer that lacks what it must have.
  type: list
  elements: str
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.serving.golden import problems


def golden_problems(answers: Iterable[Any], golden: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with the answers."""
    try:
        return list(problems(golden, list(answers)))
    except ValueError as error:
        raise AnsibleFilterError(f"golden_problems: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"golden_problems": golden_problems}
