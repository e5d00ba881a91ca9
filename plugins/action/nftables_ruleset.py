# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load a packet filter, and keep it only if a new connection to the host can be made.

The connection that the task began on proves nothing: it may live on when new ones are refused, or die
when new ones would be let in. So it is ended, and another is made.
"""

from __future__ import annotations

import ipaddress
import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

# A host that took a ruleset back may need this long to be reached again.
SECONDS_AFTER_REVERT = 30.0
# Too close to the timer, a confirmation might come too late.
SECONDS_TO_CONFIRM = 5.0


class ActionModule(ActionBase):
    """Runs the module for each step: load, and after a new connection, confirm."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the module's result, of both steps where there are two."""
        super().run(tmp, task_vars)
        state = self._task.args.get("state", "present")
        if state not in ("present", "loaded"):
            return self._execute_module(task_vars=task_vars)
        before = self._connected_from()
        refusal = self._refusal(before)
        if refusal:
            return {"failed": True, "msg": refusal}
        result = self._load(before, task_vars)
        if result.get("failed") or state == "loaded":
            return result
        return self._confirm(result, task_vars)

    def _step(self, state: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        return self._execute_module(
            module_args={**self._task.args, "state": state}, task_vars=task_vars
        )

    def _load(self, before: list[str], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        started = time.monotonic()
        try:
            result = self._step("loaded", task_vars)
        except AnsibleConnectionFailure as error:
            # cut off in the middle of it: whether for good is seen by the new connection
            self._display.vv(f"nftables_ruleset: {error}")
            result = {"changed": True, "waiting": True}
        if self._task.check_mode or result.get("failed") or not result.get("waiting"):
            return result
        connection = self._reconnect(before, started)
        if connection is None:
            return {"failed": True, "msg": self._cut_off(started)}
        if before:
            result["connection"] = connection
        result["seconds"] = round(time.monotonic() - started, 2)
        return result

    def _confirm(self, first: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        started = time.monotonic()
        second = self._step("confirmed", task_vars)
        for key in ("connection", "seconds"):
            if key in first:
                second[key] = first[key]
        if "seconds" in first:
            second["seconds"] = round(first["seconds"] + time.monotonic() - started, 2)
        second["changed"] = bool(first.get("changed") or second.get("changed"))
        second["diff"] = [*first.get("diff", []), *second.get("diff", [])]
        return second

    def _connected_from(self) -> list[str]:
        """Give what the host knows of this connection; nothing where it is not SSH."""
        # without become, which would forget it
        answer = self._low_level_execute_command('echo "$SSH_CONNECTION"', sudoable=False)
        return str(answer.get("stdout", "")).split()

    def _refusal(self, connection: list[str]) -> str:
        """Say why nothing may be loaded over this connection, or nothing."""
        networks = self._task.args.get("management_networks") or []
        if not networks or not connection:
            return ""
        try:
            source = ipaddress.ip_address(connection[0].partition("%")[0])
            if any(source in ipaddress.ip_network(network) for network in networks):
                return ""
        except ValueError as error:
            return f"management_networks: {error}"
        return (
            f"nothing was loaded: the host sees this connection come from {source}, and SSH would be let in from "
            f"{', '.join(networks)} only. Add the controller's network, or connect from one of these."
        )

    def _reconnect(self, before: list[str], started: float) -> list[str] | None:
        """Make a new connection while there is time; gives what the host knows of it, None if there is no way."""
        seconds = int(self._task.args.get("revert_seconds", 60))
        last = started + max(1.0, seconds - SECONDS_TO_CONFIRM)
        while time.monotonic() < last:
            try:
                self._connection.reset()
                after = self._connected_from()
            except AnsibleError as error:
                self._display.vv(f"nftables_ruleset: no new connection yet: {error}")
                time.sleep(0.5)
                continue
            if not before or (after and after != before):
                # one that took until then may have been let in by what was restored
                return after if time.monotonic() < last else None
            time.sleep(0.2)
        return None

    def _cut_off(self, started: float) -> str:
        """Wait until the host has taken the ruleset back, and say whether it did."""
        seconds = int(self._task.args.get("revert_seconds", 60))
        problem = "no new connection could be made with the new ruleset"
        while time.monotonic() - started < seconds + SECONDS_AFTER_REVERT:
            try:
                self._connection.reset()
                self._connected_from()
            except AnsibleError:
                time.sleep(0.5)
                continue
            if time.monotonic() - started > seconds:
                return f"{problem}. After {seconds} s the host restored what was before, and can be reached again."
            time.sleep(0.5)
        return (
            f"{problem}, and the host still cannot be reached, {SECONDS_AFTER_REVERT:.0f} s after it was to restore what was before. "
            "Look at it on its console: systemctl status '*-revert.*'."
        )
