# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: controller_problems
short_description: Why the controller cannot run this collection's playbooks
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Compares ansible-core with C(meta/runtime.yml) of the collection, and the packages of the Python that runs it with
    C(meta/ee-requirements.txt); says what of the inventory this user cannot read, and whether it has any host.
  - It is for the first task of a playbook, since with another Ansible any later one may fail for reasons that say nothing of it.
options:
  inventory:
    description: Whether the playbook needs an inventory.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Verify that Ansible, its Python and the inventory can be used
  ansible.builtin.assert:
    that: query('onprem.deepseek.controller_problems') | length == 0
"""

RETURN = r"""
_list:
  description: Sentences, each with what to do; none if nothing is wrong.
  type: list
  elements: str
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible.release import __version__ as ansible_version

from ansible_collections.onprem.deepseek.plugins.plugin_utils import controller


class LookupModule(LookupBase):
    """Asks the controller, and no host."""

    def run(
        self, terms: Sequence[Any], variables: Mapping[str, Any] | None = None, **options: Any
    ) -> list[str]:
        """Return what is wrong."""
        self.set_options(var_options=variables, direct=options)
        known = variables or {}
        problems = list(controller.software(ansible_version))
        if self.get_option("inventory"):
            sources = [str(source) for source in known.get("ansible_inventory_sources") or []]
            problems += controller.inventory(sources, known.get("groups", {}).get("all", []))
        return problems
