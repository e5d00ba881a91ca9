# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: stage_gate
short_description: The gate of a stage, from the record of its rollout
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns the document that M(onprem.deepseek.pkcs11_signature) is to sign, or fails with everything by which the release has not passed.
options:
  _input:
    description: What the file of the record holds.
    type: str
    required: true
  stage:
    description: The stage that was passed.
    type: str
    choices: [pilot, gray, full]
    required: true
  approver:
    description: Who answers for it.
    type: str
    required: true
  objective_seconds:
    description: The objective of a first token by which answers were judged.
    type: float
    required: true
  criteria:
    description: What the stage asks for, with V(least_requests), V(least_days), V(most_errors) and V(most_slow).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the gate
  ansible.builtin.debug:
    msg: "{{ record.content | b64decode | onprem.deepseek.stage_gate('pilot', 'Dr. Li', 2.5, stage_criteria) }}"
"""

RETURN = r"""
_value:
  description: The document.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.gate import (
    Criteria,
    GateError,
    gate_document,
    passage_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.record import (
    RecordError,
    from_json,
)


def stage_gate(
    text: str, stage: str, approver: str, objective_seconds: float, criteria: Mapping[str, float]
) -> dict[str, Any]:
    """Return the document of the gate."""
    try:
        passage = passage_of(from_json(text.encode()), stage, approver, objective_seconds)
        asked = Criteria(
            least_requests=int(criteria["least_requests"]),
            least_days=float(criteria["least_days"]),
            most_errors=float(criteria["most_errors"]),
            most_slow=float(criteria["most_slow"]),
        )
        return gate_document(passage, asked)
    except KeyError as error:
        raise AnsibleFilterError(f"stage_gate: the criteria have no {error}") from error
    except (GateError, RecordError) as error:
        raise AnsibleFilterError(f"stage_gate: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"stage_gate": stage_gate}
