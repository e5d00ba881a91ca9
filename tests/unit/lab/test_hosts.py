# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hosts.py decides before it touches this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import load_script
from waiting import PATIENCE

SCRIPT = Path(__file__).resolve().parents[2] / "lab" / "hosts.py"


@pytest.fixture(scope="module")
def hosts() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        yield load()


def load() -> ModuleType:
    return load_script(SCRIPT, "lab_hosts")


def described(**addresses: str) -> str:
    return json.dumps(
        {
            "name": "unit",
            "octet": 199,
            "image": "prepared",
            "hosts": {"storage-1": {"debian": "bookworm", "addresses": addresses}},
        }
    )


def test_a_description_becomes_a_lab(hosts: ModuleType) -> None:
    lab = hosts.parse(described(management="10.199.10.31", storage="10.199.40.31"))
    (host,) = lab.hosts
    assert (lab.name, lab.octet, lab.image) == ("unit", 199, "prepared")
    assert (host.name, host.debian) == ("storage-1", "bookworm")
    assert lab.container(host) == "unit-storage-1"
    assert lab.subnet("storage") == "10.199.40.0/24"
    assert lab.controller("service") == "10.199.20.1"
    assert lab.directory.name == "unit"


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
    lock, order = tmp_path / "directory" / "lock", []

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
    waiting.join(PATIENCE)
    daemon.kill()
    daemon.wait()
    assert order == ["first", "second"]


@pytest.fixture
def claims(hosts: ModuleType) -> ModuleType:
    module: ModuleType = sys.modules["claims"]
    return module


@pytest.fixture
def two_states(
    hosts: ModuleType, claims: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> list[Any]:
    """The same lab in two state directories; that of the second is what hosts.py now has."""
    labs = []
    for name in ("first", "second"):
        monkeypatch.setattr(hosts, "STATE", tmp_path / name)
        lab = hosts.parse(described(management="10.199.10.31"))
        lab.directory.mkdir(parents=True)
        labs.append((lab, lab.directory, {zone: lab.bridge(zone) for zone in hosts.ZONES}))
    return labs


def test_two_labs_with_the_same_addresses_are_refused(
    claims: ModuleType, two_states: list[Any]
) -> None:
    has: Any = {}
    (_lab, first, _bridges), (_lab, second, _bridges) = two_states
    claims.claim(has, 199, first, 3)
    claims.claim(has, 199, first, 4)
    with pytest.raises(claims.LabError) as refused:
        claims.claim(claims.read(claims.write(has)), 199, second, 1)
    assert str(refused.value).startswith(f"lab_octet 199: the lab in {first} is up")
    assert "ONPREM_LAB_OCTET" in str(refused.value)
    claims.claim(has, 198, second, 2)
    assert claims.hosts_elsewhere(claims.read(claims.write(has)), second.parents[1]) == 4
    claims.forget(has, first)
    claims.claim(has, 199, second, 1)
    assert list(has) == [199]  # and 198 is free again


def test_two_labs_of_one_state_with_the_same_addresses_are_refused(
    claims: ModuleType, tmp_path: Path
) -> None:
    has: Any = {}
    claims.claim(has, 199, tmp_path / "labs" / "first", 1)
    with pytest.raises(claims.LabError, match="lab_octet 199"):
        claims.claim(has, 199, tmp_path / "labs" / "second", 1)


def test_a_lab_that_was_removed_by_hand_has_nothing(
    claims: ModuleType, two_states: list[Any]
) -> None:
    (_lab, first, _bridges), (_lab, second, _bridges) = two_states
    text = claims.write({199: claims.Claim(str(first), 3)})
    first.rmdir()
    has = claims.read(text)
    claims.claim(has, 199, second, 1)
    assert has == {199: claims.Claim(str(second), 1)}


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"x": {}}', '{"110": {"hosts": 1}}'])
def test_what_is_no_list_of_claims_has_none(claims: ModuleType, text: str) -> None:
    assert claims.read(text) == {}


def test_what_labs_have_is_kept_between_runs(
    hosts: ModuleType, claims: ModuleType, tmp_path: Path
) -> None:
    for octet in (110, 111):
        with hosts.one_at_a_time(tmp_path / "lock") as has:
            claims.claim(has, octet, tmp_path, octet)
    with hosts.one_at_a_time(tmp_path / "lock") as has:
        assert has == {111: claims.Claim(str(tmp_path), 111)}


def test_no_two_states_have_a_bridge_in_common(hosts: ModuleType, two_states: list[Any]) -> None:
    names = [name for _lab, _directory, bridges in two_states for name in bridges.values()]
    assert len(set(names)) == 2 * len(hosts.ZONES)
    assert all(len(name) <= 15 for name in names)  # IFNAMSIZ


def test_each_state_has_a_port_for_its_package_cache(hosts: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_text(f"cacher\0Port=4711\0CacheDir={tmp_path}/first\0")
    assert hosts.cache_port(tmp_path, tmp_path / "first") == 4711
    # Of another state, or of a process that has its number now.
    assert hosts.cache_port(tmp_path, tmp_path / "second") != 4711
    port = hosts.cache_port(tmp_path / "gone", tmp_path / "first")
    with socket.create_server(("127.0.0.1", port)):
        assert hosts.cache_port(tmp_path / "gone", tmp_path / "second") != port


def test_a_bridge_that_a_lab_has_left_is_removed_and_no_other(
    hosts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three interfaces with the address: a bridge, one with a host, and no bridge."""
    answers = {
        "link show type bridge": [{}, {"ifname": "left"}, {"ifname": "used"}],
        "address show to 10.199.10.1/32": [{"ifname": n} for n in ("left", "used", "eth0")] + [{}],
        "link show master left": [],
        "link show master used": [{"ifname": "veth0"}],
    }
    removed: list[str] = []

    def run(*argv: str) -> str:
        if argv[1] == "-json":
            return json.dumps(answers[" ".join(argv[2:])])
        removed.append(" ".join(argv))
        return ""

    monkeypatch.setattr(hosts, "run", run)
    hosts.remove_leftover("10.199.10.1")
    assert removed == ["ip link delete left"]


PODMAN = """#!/bin/sh
echo "$*" >>$CALLS
case "$*" in *"network ls"*) echo lab-storage ;; *"network inspect"*) echo nothing-110-40 ;; esac
"""


def test_podman_sees_the_networks_of_its_own_state_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The networks were in one directory for all states, and the second start removed them."""
    (tmp_path / "bin").mkdir()
    for name, text in {
        "podman": PODMAN,
        "stat": "#!/bin/sh\necho cgroup2fs\n",  # a machine that needs no namespace of its own
    }.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("ONPREM_LAB_STATE", str(tmp_path / "state"))
    subprocess.run([SCRIPT.with_name("podman"), "network", "ls"], check=True)
    called = (tmp_path / "calls").read_text()
    assert f"--network-config-dir {tmp_path}/state/podman/networks " in called
    assert f"--root {tmp_path}/state/podman/root " in called


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
