# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: releases_of_host
short_description: The releases that the workers of an inference host serve
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Selects those of the site's releases that a host needs, each with the precision and the engine that the host has it with.
options:
  _input:
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
- name: Show what this host serves
  ansible.builtin.debug:
    msg: >-
      {{ groups['inference'] | onprem.deepseek.releases(hostvars) | onprem.deepseek.releases_of_host(inventory_hostname)
      | map(attribute='label') }}
"""

RETURN = r"""
_value:
  description: The releases, in the order of the list.
  type: list
  elements: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import (
    releases as inventory_releases,
)


def releases_of_host(
    releases: Sequence[Mapping[str, Any]], host: str, instead: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the releases of the host."""
    return inventory_releases.of_host(host, releases, instead)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"releases_of_host": releases_of_host}
