# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks say in the end is right with every option, and red where nothing was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import played
import pytest
import yaml
from forked_playbooks import forked
from played import HERE, KEPT_PYTHON

ROOT = Path(__file__).resolve().parents[3]
BOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
# What a controller does for itself, and judges no host.
OF_THE_CONTROLLER = {"awx_configure.yml", "bundle_create.yml", "bundle_fetch.yml"}
UNREACHABLE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
HOSTS = {"gw-1": {}, "in-1": {}, "st-1": {}, "st-2": {}}
GROUPS = {
    "gateway": ["gw-1"],
    "inference": ["in-1"],
    "storage": ["st-1", "st-2"],
    "release": ["in-1"],
}


def plays() -> Iterator[tuple[str, dict[str, Any]]]:
    for book in BOOKS:
        for play in yaml.safe_load(book.read_text()):
            yield book.name, play


def test_no_verdict_is_a_play_that_limit_leaves_out() -> None:
    """Kind: a play on localhost is no part of a run with --limit, so all it judges passes."""
    local = {book for book, play in plays() if play.get("hosts") == "localhost"}
    assert local <= OF_THE_CONTROLLER


def test_every_verdict_has_a_host_with_every_option() -> None:
    judging = [(book, play) for book, play in plays() if "localhost" in str(play.get("hosts"))]
    judging = [(book, play) for book, play in judging if book not in OF_THE_CONTROLLER]
    assert {book for book, _play in judging} >= {
        "gpu_burn_in.yml",
        "model_publish.yml",
        "preflight.yml",
        "storage_replace_host.yml",
        "storage_health.yml",
        "verify.yml",
    }
    for book, play in judging:
        assert play["hosts"] == "all:localhost", book
        assert play["tags"] == "always", book
        assert play["any_errors_fatal"] is True, book
        for task in play["tasks"]:
            # an included role is a task of each host, and fails where that cannot be described
            assert "ansible.builtin.include_role" not in task, book
            if "ansible.builtin.assert" in task:
                assert task["run_once"] is True, book
                assert task["delegate_to"] == "localhost", book


@pytest.mark.parametrize("where", ["playbooks", "roles/preflight"])
def test_what_is_noted_of_a_failure_is_its_own_words(where: str) -> None:
    """Kind: a looped task's result says "One or more items failed" where its items say why."""
    for file in (ROOT / where).rglob("*.yml"):
        for line in file.read_text().splitlines():
            assert "ansible_failed_result.msg" not in line, file


def test_a_plan_is_no_change() -> None:
    """Kind: a dry run that counts as a change."""
    asked = 0
    for book, play in plays():
        for task in play.get("tasks", []):
            if task.get("check_mode") is True:
                asked += 1
                assert task["changed_when"] is False, (book, task["name"])
    assert asked


def inventory(
    directory: Path,
    hosts: dict[str, dict[str, Any]] | None = None,
    groups: dict[str, list[str]] | None = None,
    **variables: Any,
) -> Path:
    """Write an inventory of hosts that all are this machine."""
    site = {
        "all": {
            "vars": {**HERE, **variables},
            "hosts": HOSTS if hosts is None else hosts,
            "children": {
                group: {"hosts": {name: {} for name in names}}
                for group, names in (GROUPS if groups is None else groups).items()
            },
        }
    }
    path = directory / "hosts.json"
    path.write_text(json.dumps(site))
    return path


def run(directory: Path, book: str, *options: str, **site: Any) -> tuple[int, str]:
    done = played.play(
        ROOT / "playbooks" / f"{book}.yml",
        *options,
        inventory=inventory(directory, **site),
        ANSIBLE_GATHER_SUBSET="!all",
        **KEPT_PYTHON,
    )
    return done.status, done.words


def test_verify_is_red_with_limit(tmp_path: Path) -> None:
    status, said = run(tmp_path, "verify", "--limit", "gw-1")
    assert status == 2
    verdict = said.partition("NOT VERIFIED")[2]
    assert "gw-1, units: " in verdict
    assert "gw-1, gateway, " in verdict
    assert "st-1" not in verdict


def test_verify_is_red_in_check_mode_and_names_a_host_that_is_down(tmp_path: Path) -> None:
    hosts = {**HOSTS, "st-2": UNREACHABLE}
    status, said = run(tmp_path, "verify", "--check", hosts=hosts)
    assert status in (2, 4)
    verdict = said.partition("NOT VERIFIED")[2]
    assert "gw-1, gateway, " in verdict
    assert "in-1, inference, " in verdict
    assert "st-2: it cannot be used: " in verdict
    assert "Connection refused" in verdict


LEFT_OUT: list[tuple[str, list[str], str]] = [
    ("verify", ["--tags", "gateway"], "gw-1: it was not asked about tls, gateway"),
    ("verify", ["--start-at-task", "Verify that nothing is wrong"], "gw-1: it was not asked"),
    ("storage_health", ["--limit", "gw-1"], "st-1: it was not asked about health"),
    ("gpu_burn_in", ["--limit", "gw-1"], "Nothing was asked: no host of the run is in group"),
    ("model_retire", ["--limit", "gw-1"], "st-1: it was not asked about health"),
    ("model_publish", ["--limit", "gw-1"], "Nothing was asked: no host of the run is in group"),
    (
        "model_publish",
        ["--start-at-task", "Verify that a version was published"],
        "in-1: it was not asked",
    ),
    ("storage_replace_host", ["--limit", "st-1"], "Left out were gw-1, in-1, st-2."),
]


@pytest.fixture(scope="module")
def left_out(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """How each run of LEFT_OUT ended, and what it said in one line."""
    hosts = inventory(tmp_path_factory.mktemp("left-out"))
    commands = [
        played.command(ROOT / "playbooks" / f"{book}.yml", *options, inventory=hosts)
        for book, options, _says in LEFT_OUT
    ]
    settings = played.environment(ANSIBLE_GATHER_SUBSET="!all", **KEPT_PYTHON)
    return [(status, " ".join(said.split())) for status, said in forked(commands, settings, ROOT)]


@pytest.mark.parametrize("number", range(len(LEFT_OUT)), ids=lambda one: LEFT_OUT[one][0])
def test_a_run_that_leaves_the_questions_out_is_refused(
    left_out: list[tuple[int, str]], number: int
) -> None:
    status, said = left_out[number]
    assert status == 2, said
    assert LEFT_OUT[number][2] in said


def test_an_inventory_without_hosts_is_not_verified(tmp_path: Path) -> None:
    for book in ("verify", "storage_health", "gpu_burn_in", "model_publish"):
        status, said = run(tmp_path, book, hosts={}, groups={})
        assert status == 2, said
        assert "Nothing was asked" in said


def test_a_burn_in_without_gpus_says_so(tmp_path: Path) -> None:
    variables = {"deepseek_engine_flavour": "none", "deepseek_venv_dir": "/nowhere"}
    status, said = run(tmp_path, "gpu_burn_in", **variables)
    assert status == 0, said
    assert "Nothing was burnt in: no engine of in-1 needs a GPU" in said
    assert "Passed" not in said
    status, said = run(
        tmp_path, "gpu_burn_in", "-e", "gpu_validation_burn_in_seconds=600", **variables
    )
    assert status == 2
    assert "- 'NOT PASSED. 1 found:' - 'Nothing was burnt in: no engine" in said
