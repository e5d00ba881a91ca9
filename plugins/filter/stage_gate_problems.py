# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: stage_gate_problems
short_description: What keeps a release out of a stage
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Reads the gate of the stage before from the controller, and returns one line for everything by which it is not open for the release,
    with the file and the remedy. The first stage has no gate before it.
options:
  _input:
    description: The release, with V(model), V(version) and V(digest), the SHA-256 of its release file.
    type: dict
    required: true
  stage:
    description: The stage that it is to enter.
    type: str
    choices: [pilot, gray, full]
    required: true
  directory:
    description: Directory of the gates on the controller.
    type: path
    required: true
  key:
    description: The site's release public key, in PEM.
    type: str
    required: true
  good_days:
    description: For how many days a gate is good.
    type: float
    required: true
  now:
    description: The time, in seconds since 1970.
    type: float
    required: true
"""

EXAMPLES = r"""
- name: Refuse a release that has not passed the stage before
  ansible.builtin.assert:
    that: problems | length == 0
  vars:
    problems: >-
      {{ {'model': 'deepseek-r1', 'version': '1.1.0', 'digest': release.stat.checksum}
      | onprem.deepseek.stage_gate_problems('gray', '/var/lib/ops/gates', key.content | b64decode, 14, now(utc=true).timestamp()) }}
"""

RETURN = r"""
_value:
  description: One line for each, empty when the gate is open.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.gate import (
    MOST_BYTES,
    GateError,
    Wanted,
    before,
    check_gate,
    gate_name,
)


def stage_gate_problems(
    release: Mapping[str, str],
    stage: str,
    directory: str,
    key: str,
    good_days: float,
    now: float,
) -> list[str]:
    """Return what keeps the release out of the stage."""
    model, version, digest = (release[one] for one in ("model", "version", "digest"))
    try:
        passed = before(stage)
        if passed is None:
            return []
        path = Path(directory) / gate_name(model, digest, passed)
        check_gate(
            Wanted(model, version, digest, stage, float(good_days)),
            str(path),
            _content(path),
            _content(path.with_name(f"{path.name}.sig.b64")),
            key.encode(),
            now,
        )
    except GateError as error:
        return error.findings
    return []


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"stage_gate_problems": stage_gate_problems}
