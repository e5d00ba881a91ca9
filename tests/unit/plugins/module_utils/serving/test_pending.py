# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left to do on an inference host, whatever became of the run before."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.filter.pending_workers import FilterModule
from ansible_collections.onprem.deepseek.plugins.module_utils.serving.pending import (
    CREDENTIALS,
    TARGET,
    UNITS,
    WORKER_UNIT,
    pending,
    prepared_files,
)

SETTINGS, TLS = "/etc/deepseek/inference", "/etc/deepseek/tls"
WORKERS = [{"name": "left", "port": 8000}, {"name": "right", "port": 8001}]
UPSTREAM = f"{UNITS}/deepseek-upstream.service"


def digest(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Host:
    """The files of a host by path, and what an interrupted or whole run does to them."""

    def __init__(self, upstream: bool = False) -> None:
        self.upstream = upstream
        self.files = {f"{TLS}/{name}": name for name in CREDENTIALS}

    def prepare(self, **changed: str) -> None:
        for file in prepared_files(WORKERS, SETTINGS, self.upstream):
            name = file["name"]
            self.files[f"{SETTINGS}/next/{name}"] = changed.get(name.partition(".")[0], name)

    def plan(self, workers: list[dict[str, Any]] | None = None, apply: bool = True) -> Any:
        found = [{"path": path, "checksum": digest(text)} for path, text in self.files.items()]
        listed = WORKERS if workers is None else workers
        wanted = FilterModule().filters()["pending_workers"]
        return wanted(found, listed, SETTINGS, TLS, upstream=self.upstream, apply=apply)

    def install(self) -> None:
        for file in self.plan()["install"]:
            self.files[file["path"]] = self.files[file["next"]]

    def start(self, apply: bool = True) -> None:
        plan = self.plan(apply=apply)
        for name, record in plan["records"].items():
            self.files[f"{SETTINGS}/started/worker-{name}"] = record
        if self.upstream:
            self.files[f"{SETTINGS}/started/upstream"] = plan["upstream_record"]


@pytest.fixture(params=[False, True], ids=["own engine", "upstream server"])
def host(request: pytest.FixtureRequest) -> Host:
    made = Host(request.param)
    made.prepare()
    made.install()
    made.start()
    return made


def test_a_new_host_starts_everything() -> None:
    host = Host()
    host.prepare()
    plan = host.plan()
    assert plan["needed"]
    assert plan["due"] == ["left", "right"]
    assert {file["path"] for file in plan["install"]} >= {
        f"{UNITS}/{WORKER_UNIT}",
        f"{UNITS}/{TARGET}",
    }


def test_a_host_without_anything_is_not_finished() -> None:
    assert pending({}, WORKERS, SETTINGS, TLS)["needed"]


def test_nothing_is_left_after_a_whole_run(host: Host) -> None:
    plan = host.plan()
    assert not plan["needed"]
    assert (plan["install"], plan["due"], plan["former"]) == ([], [], [])
    assert not host.plan(apply=False)["needed"]


def test_a_worker_whose_settings_changed_is_restarted_alone(host: Host) -> None:
    host.prepare(right="other settings")
    assert host.plan()["due"] == ["right"]


@pytest.mark.parametrize("killed", ["prepared", "installed", "restarted and not recorded"])
def test_a_run_that_was_killed_is_completed_by_the_next(host: Host, killed: str) -> None:
    host.prepare(left="other settings")
    if killed != "prepared":
        host.install()
    # the next run prepares the same, so that no task of it changes anything
    host.prepare(left="other settings")
    assert host.plan()["due"] == ["left"]
    host.install()
    host.start()
    assert not host.plan()["needed"]


@pytest.mark.parametrize("name", CREDENTIALS)
@pytest.mark.parametrize("apply", [True, False])
def test_certificates_and_lists_restart_every_worker(host: Host, name: str, apply: bool) -> None:
    host.files[f"{TLS}/{name}"] = "another"
    plan = host.plan(apply=apply)
    assert plan["due"] == ["left", "right"]
    assert plan["install"] == []
    host.start(apply)
    assert not host.plan()["needed"]


def test_new_certificates_apply_no_prepared_settings(host: Host) -> None:
    host.prepare(left="prepared by a run that was interrupted")
    host.files[f"{TLS}/host.pem"] = "another"
    assert host.plan(apply=False)["install"] == []
    host.start(apply=False)
    assert not host.plan(apply=False)["needed"]
    assert host.plan()["due"] == ["left"]


def test_a_file_that_somebody_changed_by_hand_is_put_back(host: Host) -> None:
    host.files[f"{SETTINGS}/left.toml"] = "by hand"
    assert [file["name"] for file in host.plan()["install"]] == ["left.toml"]


def test_a_host_that_was_taken_out_is_put_back(host: Host) -> None:
    host.files[f"{SETTINGS}/drained"] = "left\n"
    plan = host.plan()
    assert plan["needed"]
    assert plan["due"] == ["left", "right"]


def test_workers_that_are_no_longer_listed_are_removed(host: Host) -> None:
    assert host.plan(WORKERS[:1])["former"] == ["right"]
    assert host.plan(WORKERS[:1], apply=False)["former"] == []


def test_only_a_changed_upstream_unit_restarts_it() -> None:
    host = Host(upstream=True)
    host.prepare()
    host.install()
    host.start()
    host.files[f"{TLS}/host.pem"] = "another"
    assert not host.plan()["upstream_due"]
    host.files[f"{SETTINGS}/next/deepseek-upstream.service"] = "another"
    assert host.plan()["upstream_due"]
    assert [file["path"] for file in host.plan()["install"]] == [UPSTREAM]
