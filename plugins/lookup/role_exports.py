# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: role_exports
author: onprem.deepseek maintainers (@onprem-deepseek)
version_added: "0.1.0"
short_description: What the roles of this collection say of themselves for others
description:
  - Reads C(meta/exports.yml) of every role and fills in the templates.
  - The variables are those of a host that the thing is on - the first of the group that a flow leads to, or that has the metrics - and
    those of the host that asks where no group is named. Defaults of the role count.
options:
  _terms:
    description:
      - What is collected. V(flows) are the connections that roles need or make, V(metrics) where metrics can be read.
    type: list
    elements: str
    choices: [flows, metrics]
    required: true
"""

EXAMPLES = r"""
- name: Show the flows that the service does not work without
  ansible.builtin.debug:
    msg: "{{ query('onprem.deepseek.role_exports', 'flows') | selectattr('needed') }}"
"""

RETURN = r"""
_list:
  description:
    - One mapping for each, with the C(role). A flow has C(from) and C(to) (lists of endpoints), C(protocol), C(ports), C(why), whether it is
      C(needed), and whether preflight has the network C(measured) along it.
    - Metrics have C(names) (where their names are defined), and either C(at) (an endpoint), C(ports) and C(path), or C(textfile), a file for the
      node exporter.
  type: list
  elements: dict
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import (
    role_exports,
    role_variables,
)
from ansible_collections.onprem.deepseek.plugins.plugin_utils.templates import plain, trusted


class LookupModule(LookupBase):
    """Collects what roles export."""

    def run(
        self, terms: Sequence[Any], variables: Mapping[str, Any] | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        """Return what is exported of these kinds, templates filled in."""
        known = variables or {}
        # Each takes a while, and several flows are of one role or lead to one host.
        of_role = functools.cache(lambda role: trusted(role_variables.defaults(role)))
        of_host = functools.cache(known["hostvars"].raw_get)
        found: list[dict[str, Any]] = []
        for kind in terms:
            if kind == "flows":
                listed = [(role, flow, flow["to"]) for role, flow in role_exports.flows()]
            elif kind == "metrics":
                listed = [
                    (role, one, [one.get("at", "")])
                    for role, said in role_exports.of_roles().items()
                    for one in said.get("metrics", ())
                ]
            else:
                raise AnsibleError(
                    f"role_exports: there is no kind {kind!r}; ask for flows or metrics"
                )
            for role, one, ends in listed:
                there = _first_host(ends, known["groups"])
                mine = known if there is None else of_host(there)
                available = {**of_role(role), **mine, "hostvars": known["hostvars"]}
                found.append({**self._filled(one, available), "role": role})
        return found

    def _filled(self, value: Any, available: Mapping[str, Any]) -> dict[str, Any]:
        templar = self._templar.copy_with_new_env(available_variables=available)
        filled: dict[str, Any] = plain(templar.template(trusted(value)))
        return filled


def _first_host(ends: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str | None:
    """The first host that the thing is on; None where no group is named, or none has hosts."""
    members = [groups.get(end.partition("/")[2]) for end in ends]
    return next((hosts[0] for hosts in members if hosts), None)
