# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pack the programs on the controller, each with the modules that it imports, for the module of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_programs import (
    Offer,
    pack,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.import_closure import (
    ClosureError,
    import_closure,
)

# The packages of this collection, wherever it is installed.
MODULE_UTILS = Path(__file__).resolve().parents[1] / "module_utils"


def offer_of(modules: Mapping[str, str], root: Path = MODULE_UTILS) -> Offer:
    """Return programs, by name and module, with the files that they are made of. Raises ClosureError, OSError."""
    needs = {name: import_closure(str(root), module) for name, module in modules.items()}
    paths = sorted({path for needed in needs.values() for path in needed})
    return Offer(modules, needs, {path: (root / path).read_text("utf-8") for path in paths})


class ActionModule(ActionBase):
    """Gives the module an archive, which only the controller can make."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the module's result."""
        super().run(tmp, task_vars)
        modules = self._task.args.get("modules")
        if not isinstance(modules, Mapping):
            return {
                "failed": True,
                "msg": f"modules must name the module of each program, not be {modules!r}",
            }
        try:
            archive = pack(offer_of(modules))
        except (ClosureError, OSError) as error:
            return {"failed": True, "msg": f"the programs cannot be packed: {error}"}
        return self._execute_module(
            module_args={**self._task.args, "archive": archive}, task_vars=task_vars
        )
