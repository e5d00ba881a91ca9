# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: published_problems
short_description: What is wrong with published wheels, before anything of them is used
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Compares what a release host publishes with what the controller has. What is not given is not judged.
  - The lock must be the controller's own, with one package more, ours.
  - The list of sums must be signed by the release key, and hold the sum of the lock.
  - The wheel of our package must be the one that the lock names, and hold the controller's source and nothing else.
options:
  _input:
    description:
      - The keys V(lock) (text); V(sums) (text), V(document) (what was signed, with the SHA-256 of V(sums) in it), V(signature) (Base64)
        and V(public_key) (PEM); V(wheels), the contents of the wheels of our package in Base64.
    type: dict
    required: true
  own_lock:
    description: Text of the controller's lock.
    type: str
    required: true
  source_dir:
    description: Directory of the source of our package on the controller.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse a lock that is not the controller's
  ansible.builtin.assert:
    that: >-
      {'lock': fetched.content}
      | onprem.deepseek.published_problems(lookup('ansible.builtin.file', 'requirements.txt'), 'serving') | length == 0
"""

RETURN = r"""
_value:
  description: Sentences about what is wrong.
  type: list
  elements: str
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import ArtifactError
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.signatures import (
    verify_release_signature,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.serving.lockfile import (
    LockError,
    Requirement,
    addition,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.serving.own_wheel import differences

PACKAGE = "deepseek-serving"


def _signature_problem(published: Mapping[str, Any]) -> str:
    signed = str(published["document"])
    if hashlib.sha256(str(published["sums"]).encode()).hexdigest() not in signed:
        return "what the release key signed is not this list of sums, SHA256SUMS"
    try:
        verify_release_signature(
            str(published["public_key"]).encode(),
            signed.encode(),
            str(published["signature"]).encode(),
        )
    except ArtifactError as error:
        return f"the list of sums, SHA256SUMS: {error}"
    return ""


def _sum_problem(lock: str, sums: str) -> str:
    digest = hashlib.sha256(lock.encode()).hexdigest()
    listed = {line.partition("  ")[0] for line in sums.split("\n")}
    return "" if digest in listed else "the sum of the lock is not in SHA256SUMS"


def _wheel_problems(wheels: list[str], ours: Requirement, source: Path) -> Iterator[str]:
    if len(wheels) != 1:
        yield f"there are {len(wheels)} wheels of {PACKAGE}, not one"
    for encoded in wheels[:1]:
        content = base64.b64decode(encoded)
        if f"--hash=sha256:{hashlib.sha256(content).hexdigest()}" not in ours.hashes:
            yield f"the wheel of {PACKAGE} is not the one that the lock names"
        for difference in differences(content, source)[:5]:
            yield f"the wheel of {PACKAGE} is not the controller's source: {difference}"


def published_problems(published: Mapping[str, Any], own_lock: str, source_dir: str) -> list[str]:
    """Return what is wrong with published wheels, as sentences."""
    problems = []
    if "sums" in published:
        problems.append(_signature_problem(published))
    if "lock" in published:
        lock = str(published["lock"])
        try:
            ours = addition(lock, str(own_lock), PACKAGE)
        except LockError as error:
            return [*filter(None, problems), f"the lock is not the controller's: {error}"]
        if "sums" in published:
            problems.append(_sum_problem(lock, str(published["sums"])))
        if "wheels" in published:
            problems += _wheel_problems(list(published["wheels"]), ours, Path(source_dir))
    return [problem for problem in problems if problem]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"published_problems": published_problems}
