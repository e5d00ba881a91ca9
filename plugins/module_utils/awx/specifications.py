# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks can be told: their own options, and variables of roles. Runs on the controller only."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..inventory.role_variables import ROLES, known, read_yaml

PLAYBOOKS = ROLES.parent / "playbooks"


@functools.cache
def of_playbooks(playbooks: Path = PLAYBOOKS) -> dict[str, dict[str, Any]]:
    """Read the options of each playbook that has some, by its name without suffix; raises OSError."""
    given = read_yaml(playbooks / "meta/argument_specs.yml").get("argument_specs", {})
    return {name: dict(one.get("options") or {}) for name, one in given.items()}


def names(playbooks: Path = PLAYBOOKS) -> list[str]:
    """The playbooks that there are, without suffix."""
    return sorted(path.stem for path in playbooks.glob("*.yml"))


def options(playbook: str, roles: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """The options of a playbook, and those variables of roles; raises ValueError for one that no role has."""
    found = dict(of_playbooks().get(playbook, {}))
    for name in roles:
        if name not in known().variables:
            raise ValueError(f"no role has a variable {name}")
        found[name] = dict(known().variables[name])
    return found
