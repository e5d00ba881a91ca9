# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: with_releases
short_description: The workers of an inference host, each with its release
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Gives each worker the release that it serves. A worker that has none is left out.
options:
  _input:
    description: What filter P(onprem.deepseek.workers#filter) returns.
    type: list
    elements: dict
    required: true
  releases:
    description: What filter P(onprem.deepseek.releases#filter) returns.
    type: list
    elements: dict
    required: true
  host:
    description: Name of the host.
    type: str
    required: true
  instead:
    description: What replaces the fields of each release, such as its C(precision), where it is not empty.
    type: dict
"""

EXAMPLES = r"""
- name: Show what each worker of this host serves
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.release.label }}"
  loop: >-
    {{ deepseek_workers | onprem.deepseek.workers(deepseek_inference_port)
    | onprem.deepseek.with_releases(groups['inference'] | onprem.deepseek.releases(hostvars), inventory_hostname) }}
"""

RETURN = r"""
_value:
  description: The workers, each with its C(release).
  type: list
  elements: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import (
    releases as inventory_releases,
)


def with_releases(
    workers: Sequence[Mapping[str, Any]],
    releases: Sequence[Mapping[str, Any]],
    host: str,
    instead: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return the workers with their releases."""
    return inventory_releases.with_releases(workers, host, releases, instead)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"with_releases": with_releases}
