# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: gateway_models
short_description: Models and their servers as a gateway routes to them
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Groups the releases of a site by model, each with the names that it has and the servers of its stable release and of its
    canary. The order is that of the releases.
options:
  _input:
    description: Releases, as P(onprem.deepseek.releases#filter) gives them.
    type: list
    elements: dict
    required: true
  hostvars:
    description: The variables of all hosts, of which C(deepseek_workers) and C(deepseek_zone_addresses) count.
    type: dict
    required: true
  port:
    description: Port of the first worker on each host.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Show what a gateway routes to
  ansible.builtin.debug:
    msg: "{{ groups['inference'] | onprem.deepseek.releases(hostvars) | onprem.deepseek.gateway_models(hostvars, 8000) }}"
"""

RETURN = r"""
_value:
  description:
    - Models, each with C(model), its C(names) (C(model) first), C(fallback) (a model, or empty), and its C(stable) and C(canary) servers.
    - Servers have C(name), C(host), C(address) and C(port).
  type: list
  elements: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import workers


def _server(name: str, hostvars: Mapping[str, Any], port: int) -> dict[str, Any]:
    host, _colon, worker = name.rpartition(":")
    variables = hostvars[host]
    ports = {
        one["name"]: one["port"]
        for one in workers.workers(variables.get("deepseek_workers"), int(port))
    }
    return {
        "name": name,
        "host": host,
        "address": variables["deepseek_zone_addresses"]["inference"],
        "port": ports[worker],
    }


def gateway_models(
    releases: Sequence[Mapping[str, Any]], hostvars: Mapping[str, Any], port: int
) -> list[dict[str, Any]]:
    """Return the models of these releases with their servers."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for release in releases:
            model = found.setdefault(
                release["model"],
                {
                    "model": release["model"],
                    "names": [release["model"]],
                    "fallback": "",
                    "stable": [],
                    "canary": [],
                },
            )
            servers = [_server(name, hostvars, port) for name in release["workers"]]
            model["canary" if release["is_canary"] else "stable"] += servers
            model["names"] += release["aliases"]
            model["fallback"] = model["fallback"] or release["fallback"]
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"gateway_models: not described as expected: {error!r}") from error
    return list(found.values())


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"gateway_models": gateway_models}
