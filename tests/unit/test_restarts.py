# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers, gateways and stores are restarted host after host, by one mechanism each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml_mappings import mappings

ROOT = Path(__file__).resolve().parents[2]
SERVICES = re.compile(r"inference|upstream|gateway|haproxy|nginx|worker|item|unit", re.IGNORECASE)
VERBS = {"restart", "try-restart", "reload", "reload-or-restart", "stop", "kill"}
MODULES = ("systemd_service", "systemd", "service")

# Where a serving unit is restarted, reloaded or stopped, and why that is host after host.
ALLOWED = {
    "roles/inference/tasks/start.yml": "tasks/restart.yml, in a host's turn",
    "roles/inference/tasks/upstream_start.yml": "tasks/restart.yml, in a host's turn",
    "roles/inference/tasks/drain.yml": "playbooks with serial, which have asked the others",
    "roles/inference/tasks/remove.yml": "tasks/turn.yml",
    "roles/inference/tasks/upstream_remove.yml": "after the workers have been restarted without it",
    "roles/gateway/tasks/turn.yml": "tasks/turns.yml",
    "roles/gateway/tasks/remove_detour.yml": "after the gateways go on without it",
    "roles/gateway/handlers/main.yml": "reload without loss, and throttled to one",
    "roles/nvidia_driver/tasks/load.yml": "another driver only in driver_upgrade.yml: serial",
    "roles/nvidia_driver/tasks/remove.yml": "a driver of a host that serves without",
    "roles/model_storage/handlers/main.yml": "reload without loss; restart throttled to one",
    "roles/offline_bundle/tasks/run.yml": "the release host alone, reload without loss",
    "roles/release_rollout/handlers/main.yml": "serves nobody; restart throttled to one",
    "playbooks/storage_upgrade.yml": "serial: 1",
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def disturbs(task: dict[str, Any]) -> bool:
    """Whether a task restarts, reloads or stops what serves, or does what its caller says."""
    for name, call in task.items():
        module = str(name).rpartition(".")[2]
        if module == "reboot":
            return True
        if module in MODULES and isinstance(call, dict):
            state = str(call.get("state", ""))
            if re.search("restarted|reloaded|stopped|{{ *[^'{ ]", state):
                return bool(SERVICES.search(str(call.get("name", ""))))
        if module in ("command", "shell") and call:
            argv = call.get("argv", call.get("cmd", "")) if isinstance(call, dict) else call
            words = argv if isinstance(argv, list) else str(argv).split()
            if "systemctl" in str(words[:1]) and VERBS & {str(word) for word in words}:
                return True
    return False


def files() -> Iterator[Path]:
    yield from sorted((ROOT / "roles").glob("*/tasks/*.yml"))
    yield from sorted((ROOT / "roles").glob("*/handlers/*.yml"))
    yield from sorted((ROOT / "playbooks").rglob("*.yml"))


def tasks_of(path: str) -> list[dict[str, Any]]:
    return [task for task in mappings(load(ROOT / path)) if "name" in task]


def test_nothing_that_serves_is_restarted_outside_the_mechanism() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in files()
        if any(disturbs(task) for task in mappings(load(path)))
    }
    assert found == set(ALLOWED), "restart by tasks/turns.yml of the role, or say here why not"


def test_handlers_restart_one_host_at_a_time() -> None:
    """A handler runs on a whole group; where it ends a process, `throttle` has it wait its turn."""
    found = [
        task
        for path in sorted((ROOT / "roles").glob("*/handlers/*.yml"))
        for task in mappings(load(path))
        if disturbs(task)
    ]
    assert found
    at_once = [
        task["name"]
        for task in found
        if task.get("throttle") != 1 and "reloaded" not in str(task.values())
    ]
    assert at_once == []


def test_what_restarts_is_told_apart_from_what_looks() -> None:
    unit = "deepseek-inference@main.service"
    systemd = "ansible.builtin.systemd_service"
    assert disturbs({systemd: {"name": unit, "state": "restarted"}})
    assert disturbs({systemd: {"name": unit, "state": "{{ wanted }}"}})
    assert disturbs({"ansible.builtin.command": {"argv": ["systemctl", "restart", unit]}})
    assert disturbs({"ansible.builtin.shell": f"systemctl try-restart {unit}"})
    assert disturbs({"ansible.builtin.reboot": {"msg": "why"}})
    assert not disturbs({systemd: {"name": unit, "state": "started"}})
    assert not disturbs({systemd: {"name": unit, "state": "{{ 'started' if on else omit }}"}})
    assert not disturbs({"ansible.builtin.command": {"argv": ["systemctl", "is-active", unit]}})


def test_workers_are_restarted_in_a_turn_only() -> None:
    """No handler does it, and `restarted` is asked for in one file, which only a turn includes."""
    assert not (ROOT / "roles/inference/handlers").exists()
    asking = {
        path.name
        for path in (ROOT / "roles/inference/tasks").glob("*.yml")
        for task in mappings(load(path))
        if task.get("vars", {}) and task["vars"].get("__inference_state") == "restarted"
    }
    assert asking == {"restart.yml"}
    for included, by in (("restart.yml", {"turn.yml"}), ("turn.yml", {"turns.yml"})):
        assert by == {
            path.name
            for path in (ROOT / "roles/inference/tasks").glob("*.yml")
            for task in mappings(load(path))
            if task.get("ansible.builtin.include_tasks") == included
        }


def test_a_turn_has_one_host_and_ends_the_run_when_it_fails() -> None:
    for role in ("inference", "gateway"):
        loops = [
            task
            for task in tasks_of(f"roles/{role}/tasks/turns.yml")
            if task.get("ansible.builtin.include_tasks") == "turn.yml"
        ]
        assert len(loops) == 2
        for task in loops:
            conditions = str(task["when"])
            one = f"inventory_hostname == __{role}_host" in conditions
            idle = f"not __{role}_{'serving' if role == 'inference' else 'running'}" in conditions
            assert one != idle, task["name"]
            assert ("loop" in task) == one
        (block,) = load(ROOT / f"roles/{role}/tasks/turn.yml")
        assert block["any_errors_fatal"] is True


def test_workers_are_out_of_service_before_and_back_after() -> None:
    order = [
        task.get("ansible.builtin.include_tasks", "record")
        for task in load(ROOT / "roles/inference/tasks/restart.yml")
    ]
    assert order == [
        "take_out.yml",
        "upstream_start.yml",
        "start.yml",
        "check_worker.yml",
        "ask_worker.yml",
        "record",
        "record.yml",
        "put_back.yml",
    ]


def test_gateways_are_asked_whichever_hosts_a_play_is_limited_to() -> None:
    for entry in ("take_out", "put_back"):
        (task,) = load(ROOT / f"roles/gateway/tasks/{entry}.yml")
        assert task["loop"] == "{{ groups['gateway'] | default([]) }}"
        assert task["delegate_to"] == "{{ item }}"


def test_the_first_failure_ends_the_rollout_of_the_workers() -> None:
    (play,) = [
        play
        for play in load(ROOT / "playbooks/site.yml")
        if {"role": "onprem.deepseek.inference"} in play.get("roles", [])
    ]
    assert play["any_errors_fatal"] is True
