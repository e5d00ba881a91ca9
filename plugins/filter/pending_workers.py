# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: pending_workers
short_description: What is left to do on an inference host until its workers run with what they are to run with
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Compares the files of a host, by their checksums, with the record of what each worker was last started with. A restart that an
    interrupted run did not come to is found by the next one.
options:
  _input:
    description: What M(ansible.builtin.find) has found with C(get_checksum), its C(files).
    type: list
    elements: dict
    required: true
  workers:
    description: The host's workers, as the filter C(workers) returns them.
    type: list
    elements: dict
    required: true
  settings:
    description: Directory of the workers' settings.
    type: str
    required: true
  tls:
    description: Directory of certificates and revocation lists.
    type: str
    required: true
  upstream:
    description: Whether another server runs the model.
    type: bool
    default: false
  apply:
    description: Whether prepared files are to be put in place. Otherwise only certificates, lists and what is in place count.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Say which workers are started again
  ansible.builtin.debug:
    msg: "{{ (found.files | onprem.deepseek.pending_workers(workers, '/etc/deepseek/inference', '/etc/deepseek/tls')).due }}"
"""

RETURN = r"""
_value:
  description: >-
    C(needed), and what is to be done - files to C(install), workers that are C(due) or C(former), whether the upstream server is
    (C(upstream_due)), whether an interrupted run has left the host C(drained) - and the C(records) to write afterwards.
  type: dict
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.serving.pending import pending


def pending_workers(
    found: Iterable[Mapping[str, Any]],
    workers: Iterable[Mapping[str, Any]],
    settings: str,
    tls: str,
    upstream: bool = False,
    apply: bool = True,
) -> dict[str, Any]:
    """Return what is left to do."""
    sums = {str(file["path"]): str(file.get("checksum", "")) for file in found}
    return pending(sums, workers, settings, tls, upstream, apply)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"pending_workers": pending_workers}
