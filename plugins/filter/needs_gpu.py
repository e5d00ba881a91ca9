# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: needs_gpu
short_description: Whether engines of a flavour run on a GPU
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Reads the one list of flavours that need a GPU.
options:
  _input:
    description: A flavour, as in C(deepseek_engine_flavour).
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Install the driver where the engine needs it
  ansible.builtin.include_role:
    name: onprem.deepseek.nvidia_driver
  when: deepseek_engine_flavour | onprem.deepseek.needs_gpu
"""

RETURN = r"""
_value:
  description: Whether the flavour needs a GPU.
  type: bool
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.flavours import (
    GPU_FLAVOURS,
)


def needs_gpu(flavour: str) -> bool:
    """Return whether engines of this flavour run on a GPU."""
    return flavour in GPU_FLAVOURS


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"needs_gpu": needs_gpu}
