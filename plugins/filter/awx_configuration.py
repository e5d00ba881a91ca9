# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: awx_configuration
short_description: What AWX is to have for this collection
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Makes the objects that the modules of C(awx.awx) take of the data in C(awx/), with surveys made of argument specifications.
  - Everything that is wrong is found before one is written.
options:
  _input:
    description: The data, with C(prefix), C(job_template_defaults), C(workflows), C(credential_inputs), and a list for each other kind.
    type: dict
    required: true
  existing:
    description: What AWX has of each kind, as its API lists it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ (awx_data | onprem.deepseek.awx_configuration(awx_existing)).problems }}"
"""

RETURN = r"""
_value:
  description:
    - C(problems), one line for each, and the C(objects) of each kind. Each object has the arguments of its module, and says whether it is C(new),
      and whether it is C(blocked), since AWX lacks something that it refers to.
  type: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.awx.configuration import configuration


def awx_configuration(
    data: Mapping[str, Any], existing: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, Any]:
    """Return the objects that AWX is to have, and the problems of the data."""
    return configuration(data, existing)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"awx_configuration": awx_configuration}
