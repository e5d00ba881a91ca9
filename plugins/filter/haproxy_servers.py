# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: haproxy_servers
short_description: Workers as HAProxy knows them
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Gives each worker the name that its server has in HAProxy, and the address of its host in the inference zone.
options:
  _input:
    description: Workers, each with its C(host), C(name) and C(port).
    type: list
    elements: dict
    required: true
  hostvars:
    description: The variables of all hosts, of which C(deepseek_zone_addresses) counts.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Drain a worker
  onprem.deepseek.gateway_server:
    servers: "{{ [{'host': 'inference-1', 'name': 'main', 'port': 8000}] | onprem.deepseek.haproxy_servers(hostvars) }}"
    state: drained
"""

RETURN = r"""
_value:
  description: Servers as option C(servers) of M(onprem.deepseek.gateway_server) has them.
  type: list
  elements: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def haproxy_servers(
    workers: Sequence[Mapping[str, Any]], hostvars: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the workers as servers of HAProxy."""
    try:
        return [
            {
                "name": f"{worker['host']}:{worker['name']}",
                "port": worker["port"],
                "address": hostvars[worker["host"]]["deepseek_zone_addresses"]["inference"],
            }
            for worker in workers
        ]
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(
            f"haproxy_servers: not described as expected: {error!r}"
        ) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"haproxy_servers": haproxy_servers}
