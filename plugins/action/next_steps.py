# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show what comes after a rollout, on the controller, for the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.onprem.deepseek.plugins.plugin_utils import next_steps


class ActionModule(ActionBase):
    """Shows texts as they are, which no callback does: quotes in a result are escaped, and commands no longer work."""

    _requires_connection = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Show the lines, and return them."""
        super().run(tmp, task_vars)
        text = {"type": "str", "required": True}
        names = ("service_name", "address", "model", "tls_dir", "venv_dir", "gateway", "inference")
        _spec, given = self.validate_argument_spec(
            {
                **dict.fromkeys(names, text),
                "port": {"type": "int", "required": True},
                "keys_file": {"type": "str", "default": ""},
                "client_certificates": {"type": "bool", "default": False},
            }
        )
        sources = (task_vars or {}).get("ansible_inventory_sources") or []
        found = next_steps.lines(
            next_steps.Site(**given, inventories=[str(source) for source in sources])
        )
        Display().display("\n" + "\n".join(found) + "\n")
        return {"changed": False, "lines": found}
