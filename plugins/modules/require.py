# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: require
short_description: Require that values and hosts are as a role needs them
version_added: "0.1.0"
description:
  - Judges all requirements, and then fails with everything that is not met, so that one run shows all of it.
  - A requirement that cannot be evaluated, such as one of a variable that is not defined, is not met, and the others are judged all the same.
  - The task asks no host, and changes nothing. What requirements of a host are about is collected by tasks before it.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Judges, and fails, as otherwise.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
options:
  requirements:
    description:
      - Name of the variable that has the requirements, usually one of the task itself. It is a name, since arguments are filled in before
        an action sees them, and a text about what is wrong can often be filled in only then. See O(requirements) in the examples.
      - The variable is a list of mappings, written as such and not as a template.
      - V(that) is an expression as in C(when), or a list of expressions, of which all must hold. The first that does not is the one that is
        told.
      - V(says) is a text about what is wrong, with the value; it may have templates. If it is missing, or cannot be filled in, the words of
        the error are told, and where there is none the expression.
      - V(where) is what of the host it is about, such as a variable, a file or a group, and V(remedy) what to do. Both may have templates.
      - V(when) is an expression or a list of expressions; the requirement is left out unless all of them hold.
      - V(loop) is a template of a list, of which each item must meet the requirement. The item is C(item).
      - V(covered_by) are names of checks of role P(onprem.deepseek.preflight#role). Its report leaves a finding out where one of them has
        failed on the host, since it says the same.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Require usable settings
  onprem.deepseek.require:
    requirements: __service_requirements
  vars:
    __service_requirements:
      - where: service_port
        that: service_port | int >= 1024
        says: it is {{ service_port }}, which an unprivileged service cannot open
        remedy: Set it to 1024 or more
      - where: service_clients
        loop: "{{ service_clients }}"
        that: item in groups['all']
        says: "{{ item }} is no host of the inventory"
        remedy: Correct the name, or add the host
      - where: group service
        that: groups['service'] | length == 1
        says: it has {{ groups['service'] | length }} hosts, and one is needed
        remedy: Correct the inventory
        covered_by: [groups]
"""

RETURN = r"""
findings:
  description: What is not met.
  type: list
  elements: dict
  returned: always
  contains:
    where:
      description: The host, and what of it is meant.
      type: str
    what:
      description: What is wrong.
      type: str
    remedy:
      description: What to do; empty where that is a part of RV(findings[].what).
      type: str
    covered_by:
      description: Names of checks of preflight that judge the same.
      type: list
      elements: str
msg:
  description: The findings as text, one line each.
  type: list
  elements: str
  returned: when something is not met
"""
