# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's own strategy, with the modules of awx.awx run in the process of their task.

A run of awx_configure.yml calls them seventy times, and a Python of its own for each takes a second
of processor time. What they are given and what they return is the same, as one test shows, which
runs them as usual.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from typing import Any

from ansible.module_utils import basic
from ansible.module_utils.common.json import Direction, get_module_encoder
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import strategy_loader

COLLECTION = "awx.awx."
USUAL = ActionBase._execute_module


def execute(
    action: Any,
    module_name: str | None = None,
    module_args: dict[str, Any] | None = None,
    tmp: str | None = None,
    task_vars: dict[str, Any] | None = None,
    **more: Any,
) -> Any:
    """Stand in for ActionBase._execute_module."""
    name = module_name or action._task.action
    if not name.startswith(COLLECTION):
        return USUAL(action, module_name, module_args, tmp, task_vars, **more)
    arguments = dict(action._task.args if module_args is None else module_args)
    action._update_module_args(name, arguments, task_vars)
    encoder = get_module_encoder("legacy", Direction.CONTROLLER_TO_MODULE)
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}, cls=encoder).encode()
    basic._ANSIBLE_PROFILE = "legacy"
    short = name.removeprefix(COLLECTION)
    module = importlib.import_module(f"ansible_collections.awx.awx.plugins.modules.{short}")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        module.main()
    return json.loads(said.getvalue())


ActionBase._execute_module = execute
StrategyModule = strategy_loader.get("linear", class_only=True)
