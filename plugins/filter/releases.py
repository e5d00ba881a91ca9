# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: releases
short_description: The releases that a site serves, with everything filled in
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns what C(deepseek_releases) lists. Without it, C(deepseek_model_name), C(deepseek_model_version) and the other variables of a single
    release are a list of one, of which a host may have another C(deepseek_precision) and C(deepseek_engine_flavour).
  - Every role that has to do with releases uses it.
  - Fails with all that is wrong with the list, as preflight reports it.
options:
  _input:
    description: Names of the inference hosts, C(groups['inference']).
    type: list
    elements: str
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
    required: true
  judged:
    description:
      - Whether the list is judged. V(false) leaves out what makes no sense and never fails, for preflight, which reports it.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Show which workers serve what
  ansible.builtin.debug:
    msg: "{{ item.label }}: {{ item.workers | join(', ') }}"
  loop: "{{ groups['inference'] | onprem.deepseek.releases(hostvars) }}"
"""

RETURN = r"""
_value:
  description:
    - One mapping for each release, in the order of the list, with C(model), C(version) and C(label) (C(model/version)); with C(checkpoint),
      C(precisions), C(export), C(source) and C(license) as it is published; and C(precision) and C(engine) as it is served.
    - C(workers) are those that serve it, as C(HOST:WORKER), and C(hosts) those of which all workers do. C(otherwise) has the
      C(precision) and C(engine) of each C(host) that differs.
    - C(golden) are questions, each a C(prompt) and what an answer C(says).
    - C(is_canary), and C(steps), its shares in percent. C(aliases) and C(fallback) are empty where there are none.
  type: list
  elements: dict
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError, AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import release_findings
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import (
    releases as inventory_releases,
)
from ansible_collections.onprem.deepseek.plugins.plugin_utils.templates import plain

WORKERS = "deepseek_workers"
OF_A_HOST = [inventory_releases.SCALARS[key] for key in inventory_releases.OF_A_HOST]


def releases(
    hosts: Sequence[str], hostvars: Mapping[str, Any], judged: bool = True
) -> list[dict[str, Any]]:
    """Return the releases of the site."""
    names = [str(host) for host in hosts]
    if not judged:
        return inventory_releases.usable(names, _said_by_all([*names, *hostvars], hostvars))
    told = _said_by_one(names, hostvars)
    site = inventory_releases.site(told)
    problems = [
        *release_findings.list_problems(site),
        *release_findings.placement_problems(names, told),
    ]
    if problems:
        raise AnsibleFilterError("; ".join(str(one).rstrip(".") for one in problems))
    try:
        return inventory_releases.releases(names, told)
    except ValueError as error:
        raise AnsibleFilterError(f"releases: {error}") from error


def _said_by_one(hosts: Sequence[str], hostvars: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the site says, which every host knows, and of each host its workers and how it serves a single release."""
    first = next(iter([*hosts, *hostvars]), "")
    told = {
        host: {name: plain(hostvars[host].get(name)) for name in (WORKERS, *OF_A_HOST)}
        for host in hosts
    }
    site = {
        name: plain(hostvars[first].get(name)) for name in inventory_releases.VARIABLES if first
    }
    return {**told, first: {**told.get(first, {}), **site}}


def _said_by_all(hosts: Sequence[str], hostvars: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The same of every host, since some may say nothing that can be read."""
    told: dict[str, dict[str, Any]] = {host: {} for host in hosts}
    for host, found in told.items():
        for name in (*inventory_releases.VARIABLES, WORKERS):
            with contextlib.suppress(AnsibleError):
                found[name] = plain(hostvars[host].get(name))
    return told


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"releases": releases}
