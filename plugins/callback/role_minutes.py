# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows how long a run has taken so far, and where the minutes went."""

from __future__ import annotations

DOCUMENTATION = r"""
name: role_minutes
type: aggregate
short_description: Minutes per role, and the time elapsed during a run
version_added: "0.1.0"
description:
  - Before each task it prints the time since the start of the run, so that long work shows that it lives.
  - At the end it prints a table of the time that each role took, longest first, and says when a run changed nothing, or looked at nothing.
  - Where the run has no password for Ansible Vault, it names the files of variables that are encrypted as a whole, over which Ansible ends the run
    before the first task.
author:
  - onprem.deepseek maintainers (@onprem-deepseek)
requirements:
  - Enabled in configuration with C(callbacks_enabled=onprem.deepseek.role_minutes).
options:
  output_file:
    description: File that also receives the table as JSON, with times in seconds.
    type: path
    env:
      - name: ONPREM_DEEPSEEK_TIMINGS
    ini:
      - section: callback_role_minutes
        key: output_file
"""

import json
import time

from ansible import context
from ansible.plugins.callback import CallbackBase

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.vaulted_files import (
    vaulted_files,
)

# What is of no role.
_PLAYS = "(plays)"


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, as in C(2:05)."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


class CallbackModule(CallbackBase):
    """Adds up wall time by role: the time from a task's start to the next task's start is its role's."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "onprem.deepseek.role_minutes"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.current: tuple[str, float] | None = None

    def _close(self) -> None:
        if self.current:
            owner, start = self.current
            self.seconds[owner] = self.seconds.get(owner, 0.0) + time.monotonic() - start
        self.current = None

    def _open(self, task) -> None:
        self._close()
        role = task._role.get_name() if task._role else _PLAYS
        self.current = (role.rpartition(".")[2], time.monotonic())
        self._display.display(
            f"[{clock(time.monotonic() - self.started)} elapsed]", color="bright gray"
        )

    def v2_playbook_on_start(self, playbook):
        loader = playbook.get_loader()
        if getattr(getattr(loader, "_vault", None), "secrets", None):
            return
        for file in vaulted_files([*(context.CLIARGS.get("inventory") or ()), playbook._file_name]):
            self._display.display(
                f"{file} is encrypted, and this run has no password for it. Give it with --ask-vault-pass or --vault-password-file.",
                color="red",
            )

    def v2_playbook_on_task_start(self, task, is_conditional):
        self._open(task)

    def v2_playbook_on_handler_task_start(self, task):
        self._open(task)

    def v2_playbook_on_stats(self, stats):
        self._close()
        total = time.monotonic() - self.started
        totals = {
            key: sum(getattr(stats, key).values()) for key in ("ok", "changed", "failures", "dark")
        }
        self._display.banner("MINUTES PER ROLE")
        for role, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            self._display.display(f"{clock(seconds):>8}  {role}")
        self._display.display(f"{clock(total):>8}  in all, changed={totals['changed']}")
        tags = [tag for tag in context.CLIARGS.get("tags") or () if tag != "all"]
        skipped = list(context.CLIARGS.get("skip_tags") or ())
        if tags or skipped:
            asked = [f"--tags {','.join(tags)}"] * bool(tags)
            asked += [f"--skip-tags {','.join(skipped)}"] * bool(skipped)
            roles = ", ".join(sorted(set(self.seconds) - {_PLAYS})) or "no role"
            self._display.display(f"Only what {' '.join(asked)} left in was looked at: {roles}.")
        elif totals["ok"] and not (totals["changed"] or totals["failures"] or totals["dark"]):
            self._display.display("Nothing had to be changed (changed=0).", color="green")
        path = self.get_option("output_file")
        if path:
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"roles": self.seconds, "total": total, **totals}, file, indent=2)
