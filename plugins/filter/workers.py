# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: workers
short_description: The workers of an inference host, with everything filled in
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Takes the workers of a host as C(deepseek_workers) lists them, and returns them with port, GPUs, processors and limit of memory.
    The role that runs them and the role that sends requests to them both use it.
  - Null or an empty string, where a host says nothing of workers, stands for one worker, C(main), with all that the host has.
    An empty list is a host without workers.
options:
  _input:
    description: Mappings with a C(name), and perhaps C(port), C(gpus), C(cpus) and C(memory_max).
    type: list
    elements: dict
    required: true
  port:
    description: Port of the first worker. Each other that names none gets the port of its place in the list.
    type: int
    required: true
  online:
    description: Processors that the host has, such as V(0-63). Where given, all that the workers name must be among them.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show where the workers listen
  ansible.builtin.debug:
    msg: "{{ deepseek_workers | onprem.deepseek.workers(deepseek_inference_port) | map(attribute='port') }}"
"""

RETURN = r"""
_value:
  description: One mapping for each worker, with C(name), C(port), C(gpus) (a list of UUIDs), C(cpus) and C(memory_max).
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.workers import (
    workers as filled_in,
)


def workers(listed: Any, port: int, online: str = "") -> list[dict[str, Any]]:
    """Return each worker with everything filled in."""
    try:
        return filled_in(listed, port, online)
    except ValueError as error:
        raise AnsibleFilterError(f"deepseek_workers: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"workers": workers}
