# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: readiness_urls
short_description: Where the workers of inference hosts say whether they are ready
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns the URL of every worker of the hosts, in the inference zone.
options:
  _input:
    description: Names of inference hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
    required: true
  port:
    description: The port of a host's first worker, C(deepseek_inference_port).
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Show where the others say that they are ready
  ansible.builtin.debug:
    msg: "{{ groups['inference'] | onprem.deepseek.readiness_urls(hostvars, deepseek_inference_port) }}"
"""

RETURN = r"""
_value:
  description: One mapping for each worker, with its C(host), its C(name) and its C(url).
  type: list
  elements: dict
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import readiness


def readiness_urls(
    hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], port: int
) -> list[dict[str, str]]:
    """Return where the workers of hosts say whether they are ready."""
    try:
        return readiness.readiness_urls([(host, hostvars[host]) for host in hosts], int(port))
    except ValueError as error:
        raise AnsibleFilterError(f"readiness_urls: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"readiness_urls": readiness_urls}
