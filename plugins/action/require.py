# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge all requirements of a task before it fails, on the controller, for the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.onprem.deepseek.plugins.module_utils.common.require import (
    RequirementError,
    judge,
    read,
)
from ansible_collections.onprem.deepseek.plugins.plugin_utils.expressions import Expressions


class ActionModule(ActionBase):
    """Reads a variable as it is written, and asks no host."""

    _requires_connection = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return what is not met; the task has failed if that is anything."""
        super().run(tmp, task_vars)
        known = task_vars or {}
        _spec, arguments = self.validate_argument_spec(
            {"requirements": {"type": "str", "required": True}}
        )
        name = arguments["requirements"]
        try:
            requirements = read(known.get(name))
        except RequirementError as error:
            return {"failed": True, "msg": f"{name}: {error}"}
        unmet = judge(requirements, known["inventory_hostname"], Expressions(self._templar, known))
        result: dict[str, Any] = {
            "changed": False,
            "findings": [one.as_result() for one in unmet],
        }
        if unmet:
            result |= {"failed": True, "msg": [str(one) for one in unmet]}
        return result
