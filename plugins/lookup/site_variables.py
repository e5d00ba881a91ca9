# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: site_variables
short_description: The variables that the inventory gives each host, and those that cannot be read
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns for each host its site variables (C(deepseek_*)), what is wrong with the variables of this collection's roles, and the variables
    that cannot be read, such as one with an error in its template, or one that is encrypted with a password that the run does not have.
  - A variable that cannot be read is one of the things returned, and hides nothing of the others.
options:
  _terms:
    description: Names of hosts of the inventory.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show what cannot be read
  ansible.builtin.debug:
    msg: "{{ query('onprem.deepseek.site_variables', *groups['all']) | map(attribute='unread') }}"
"""

RETURN = r"""
_list:
  description:
    - One mapping for each host, with its C(name); its C(values) by name; C(unread), by name, why a variable cannot be read; and C(role_problems),
      each with C(name), C(what) is wrong and the C(remedy).
    - Values of roles' variables are not returned, since some are secret.
  type: list
  elements: dict
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.lookup import LookupBase

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import role_variables
from ansible_collections.onprem.deepseek.plugins.plugin_utils.templates import plain, trusted

# What Ansible needs in order to reach a host.
CONNECTION = (
    "ansible_host",
    "ansible_port",
    "ansible_user",
    "ansible_connection",
    "ansible_python_interpreter",
    "ansible_become",
    "ansible_become_user",
    "ansible_become_method",
    "ansible_become_password",
    "ansible_become_pass",
    "ansible_password",
    "ansible_ssh_private_key_file",
    "ansible_ssh_common_args",
)


class LookupModule(LookupBase):
    """Reads the variables of hosts one by one."""

    def run(
        self, terms: Sequence[Any], variables: Mapping[str, Any] | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        """Return what the inventory says of each host."""
        hostvars = (variables or {})["hostvars"]
        known = role_variables.known()
        # what a host has says nothing of the others, which its variables may name
        shared = {"hostvars": hostvars}
        return [
            self._host(str(name), {**hostvars.raw_get(str(name)), **shared}, known)
            for name in terms
        ]

    def _host(
        self, name: str, raw: Mapping[str, Any], known: role_variables.Known
    ) -> dict[str, Any]:
        mine = [one for one in raw if role_variables.is_judged(one, known)]
        # a site's variable may use a role's, whose default only the role has
        available = {**trusted(known.defaults), **raw}
        templar = self._templar.copy_with_new_env(available_variables=available)
        read: dict[str, Any] = {}
        unread: dict[str, str] = {}
        for variable in [*mine, *(one for one in CONNECTION if one in raw)]:
            try:
                read[variable] = plain(templar.template(raw[variable]))
            except (AnsibleError, ValueError, TypeError) as error:
                unread[variable] = " ".join(str(error).split())
        given = {one: read[one] for one in mine if one in read}
        names = {}
        for variable in role_variables.COMMON_NAMES:
            # what it is made of is judged by itself
            with contextlib.suppress(AnsibleError):
                names[variable] = templar.template(available.get(variable))
        return {
            "name": name,
            "values": {one: value for one, value in given.items() if one.startswith("deepseek_")},
            "unread": unread,
            "role_problems": [
                *role_variables.problems(given, known, _is_valid),
                *role_variables.common_name_problems(names),
            ],
        }


def _is_valid(name: str, value: Any, spec: Mapping[str, Any]) -> bool:
    return not ArgumentSpecValidator({name: dict(spec)}).validate({name: value}).error_messages
