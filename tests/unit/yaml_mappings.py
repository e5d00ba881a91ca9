# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every mapping in what a file of YAML says, such as the tasks of a playbook and its blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """At whatever depth, the outer ones first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from mappings(item)
