# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hosts.py decides before it touches this machine."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "lab" / "hosts.py"


@pytest.fixture(scope="module")
def hosts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lab_hosts", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the annotations' names
    spec.loader.exec_module(module)
    return module


def described(**addresses: str) -> str:
    return json.dumps(
        {
            "name": "unit",
            "octet": 199,
            "hosts": {"storage-1": {"debian": "bookworm", "addresses": addresses}},
        }
    )


def test_a_description_becomes_a_lab(hosts: ModuleType) -> None:
    lab = hosts.parse(described(management="10.199.10.31", storage="10.199.40.31"))
    (host,) = lab.hosts
    assert (lab.name, lab.octet) == ("unit", 199)
    assert (host.name, host.debian) == ("storage-1", "bookworm")
    assert lab.container(host) == "unit-storage-1"
    assert lab.subnet("storage") == "10.199.40.0/24"
    assert lab.controller("service") == "10.199.20.1"
    assert lab.folder.name == "unit"


@pytest.mark.parametrize(
    ("zone", "address"),
    [
        ("management", "10.198.10.31"),  # another lab's network
        ("management", "10.199.40.31"),  # another zone's network
        ("management", "10.199.101.1"),
        ("management", "192.0.2.1"),
        ("management", ""),
        ("office", "10.199.10.31"),
    ],
)
def test_addresses_outside_the_lab_are_refused(hosts: ModuleType, zone: str, address: str) -> None:
    with pytest.raises(hosts.LabError, match="storage-1: address") as refused:
        hosts.parse(described(**{zone: address}))
    assert repr(zone) in str(refused.value)
    assert "correct deepseek_zone_addresses or lab_octet" in str(refused.value)


def test_a_failed_command_shows_its_own_words(hosts: ModuleType) -> None:
    assert hosts.run("printf", "%s", "out") == "out"
    with pytest.raises(hosts.LabError, match="exit 3: because"):
        hosts.run("sh", "-c", "echo because >&2; exit 3")
    assert hosts.run("sh", "-c", "echo partly; exit 3", check=False) == "partly\n"


def test_steps_are_counted_and_timed(hosts: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    steps = hosts.Steps()
    with steps.step("network storage"):
        pass
    assert steps.changed == 1
    assert capsys.readouterr().out.startswith("network storage: 0.")


def test_a_step_that_failed_is_not_counted(hosts: ModuleType) -> None:
    def fail() -> None:
        with steps.step("network storage"):
            raise hosts.LabError("no")

    steps = hosts.Steps()
    with pytest.raises(hosts.LabError, match="no"):
        fail()
    assert steps.changed == 0


@pytest.mark.parametrize(("instances", "refused"), [("100000\n", False), ("1\n", True)])
def test_more_hosts_than_the_kernel_bears_are_refused(
    hosts: ModuleType, monkeypatch: pytest.MonkeyPatch, instances: str, refused: bool
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _path: instances)
    if refused:
        with pytest.raises(hosts.LabError, match=r"sysctl fs\.inotify\.max_user_instances="):
            hosts.check_inotify(6)
    else:
        hosts.check_inotify(6)


def test_labs_wait_for_each_other(hosts: ModuleType, tmp_path: Path) -> None:
    lock, order = tmp_path / "folder" / "lock", []

    def second() -> None:
        with hosts.one_at_a_time(lock):
            order.append("second")

    with hosts.one_at_a_time(lock):
        # What a lab starts and leaves running does not hold the lock.
        daemon = subprocess.Popen(["sleep", "60"])
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(timeout=0.3)
        order.append("first")
    waiting.join(timeout=30)
    daemon.kill()
    daemon.wait()
    assert order == ["first", "second"]


@pytest.mark.parametrize("arguments", [[], ["sideways"], ["up", "down"]])
def test_an_unknown_order_changes_nothing(
    hosts: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    def touched(*_arguments: Any) -> None:
        raise AssertionError("it did something")

    monkeypatch.setattr(hosts.subprocess, "run", touched)
    monkeypatch.setattr(sys, "argv", ["hosts.py", *arguments])
    assert hosts.main() == 2
    assert "usage:" in capsys.readouterr().err


def test_without_root_it_says_so(
    hosts: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hosts.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["hosts.py", "up"])
    assert hosts.main() == 1
    assert "needs root" in capsys.readouterr().err
