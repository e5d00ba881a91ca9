# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the module model_engine in the background, and say how far it is.

A build takes minutes to hours. In the background it survives a lost connection, and what it says in
its progress file is shown as it goes.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ansible_collections.onprem.deepseek.plugins.module_utils.serving.engine_cli import (
    progress_path,
)

STATUS = "ansible.legacy.async_status"
# An engine that is the one asked for is found in a moment: the first answers are not waited for long.
FIRST_WAITS = (0.3, 0.5, 1.0, 2.0)


class ActionModule(ActionBase):
    """Starts the module as Ansible starts any task with async, and asks for it until it ended."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the module's own result."""
        super().run(tmp, task_vars)
        if self._task.check_mode:
            return self._execute_module(task_vars=task_vars)
        started = self._start(task_vars)
        if "ansible_job_id" not in started:
            return started
        job = started["ansible_job_id"]
        result = self._wait(job, task_vars)
        self._ask(job, "cleanup", task_vars)
        for key in ("ansible_job_id", "started", "finished", "results_file"):
            result.pop(key, None)
        return result

    def _start(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        # Only while it starts: the executor would wait for the task itself, and in silence.
        self._task.async_val = int(self._task.args.get("timeout_seconds", 14400))
        try:
            return self._execute_module(task_vars=task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0

    def _wait(self, job: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        shown = ""
        for seconds in self._waits():
            time.sleep(seconds)
            try:
                result = self._ask(job, "status", task_vars)
                if result.get("finished") or (
                    result.get("failed") and result.get("_ansible_parsed")
                ):
                    return result
                shown = self._show(shown, task_vars)
            except AnsibleConnectionFailure as error:
                # the build goes on; the next question may get through
                self._display.warning(f"model_engine: {error}")
        return {}

    def _waits(self) -> Iterator[float]:
        yield from FIRST_WAITS
        while True:
            yield max(1, int(self._task.args.get("progress_seconds", 15)))

    def _ask(self, job: str, mode: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        task = self._task.copy()
        task.async_val = 0
        task.args = {"jid": job, "mode": mode}
        action = self._shared_loader_obj.action_loader.get(
            STATUS,
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        return action.run(task_vars=task_vars)

    def _show(self, shown: str, task_vars: dict[str, Any] | None) -> str:
        """Display what the build says, if it is something else than *shown*."""
        path = progress_path(str(self._task.args.get("dest", "")))
        answer = self._execute_module(
            module_name="ansible.legacy.slurp", module_args={"src": path}, task_vars=task_vars
        )
        try:
            state = json.loads(base64.b64decode(answer["content"]))
            text = f"{state['text']} ({state['seconds']} s)"
        except (KeyError, ValueError):
            # not begun yet, or just ended
            return shown
        if text != shown:
            host = (task_vars or {}).get("inventory_hostname", "")
            self._display.display(f"[{host}] model_engine: {text}")
        return text
