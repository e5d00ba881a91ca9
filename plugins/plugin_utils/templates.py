# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values with templates in them, as lookups read them from files of roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    from ansible.template import trust_as_template
except ImportError:  # before ansible-core 2.19 every text may be a template
    trust_as_template = None


def trusted(value: Any) -> Any:
    """The same with its templates for templates; since ansible-core 2.19 only what a loader of Ansible's has read is taken for one."""
    if isinstance(value, Mapping):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) and trust_as_template else value


def plain(value: Any) -> Any:
    """The value with everything in it read, so that an error shows here and not where it is used."""
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
