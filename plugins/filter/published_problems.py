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
  - The lock must be the controller's own, which names each wheel by its hash, ours among them.
  - The list of sums must be signed by the release key, and hold the sum of the lock.
options:
  _input:
    description:
      - The keys V(lock) (text); V(sums) (text), V(document) (what was signed, with the SHA-256 of V(sums) in it), V(signature) (Base64)
        and V(public_key) (PEM).
    type: dict
    required: true
  own_lock:
    description: Text of the controller's lock.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Refuse a lock that is not the controller's
  ansible.builtin.assert:
    that: >-
      {'lock': fetched.content}
      | onprem.deepseek.published_problems(lookup('ansible.builtin.file', 'requirements.lock')) | length == 0
"""

RETURN = r"""
_value:
  description: Sentences about what is wrong.
  type: list
  elements: str
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import ArtifactError
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.signatures import (
    verify_release_signature,
)


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


def _lock_problem(lock: str, own: str) -> str:
    """The first line in which they differ. Comments count: nothing but the controller's own bytes is taken."""
    for theirs, ours in itertools.zip_longest(lock.split("\n"), own.split("\n")):
        if theirs != ours:
            return f"the lock is not the controller's: it has {str(theirs)[:200]!r} where that has {str(ours)[:200]!r}"
    return ""


def published_problems(published: Mapping[str, Any], own_lock: str = "") -> list[str]:
    """Return what is wrong with published wheels, as sentences."""
    problems = []
    if "sums" in published:
        problems.append(_signature_problem(published))
    if "lock" in published:
        problems.append(_lock_problem(str(published["lock"]), str(own_lock)))
    if "lock" in published and "sums" in published:
        problems.append(_sum_problem(str(published["lock"]), str(published["sums"])))
    return [problem for problem in problems if problem]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"published_problems": published_problems}
