# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sandbox of a worker, seen from inside, by a probe in its place, and from outside."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conftest import STORE, Worker
from lab_hosts import ADDRESSES, hosts, name_of, wait_for

testinfra_hosts = hosts("inference-1", "inference-2", "inference-3")

CONFIG = "/etc/deepseek"
# Where a worker must not write.
PLACES = (
    "/",
    "/etc",
    CONFIG,
    "/opt/deepseek",
    "/opt/deepseek/serving",
    "/home",
    "/root",
    "/run",
    "/dev/shm",
    "/srv",
    STORE,
    "/usr/local/bin",
    "/var/lib",
)
PROBE = "deepseek-inference@probe.service"  # verify.yml has installed it
PROBE_PORT = 8077
FORBIDDEN = ADDRESSES["storage-1"]["management"]


@pytest.fixture(scope="module")
def status(host: Any, worker: Worker) -> dict[str, str]:
    """What the kernel says of the worker's process."""
    text = host.file(f"/proc/{worker.process}/status").content_string
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_the_probe_can_do_what_it_needs_and_nothing_else(host: Any) -> None:
    # Without this, a probe that cannot reach it would prove nothing.
    wait_for(lambda: host.addr(FORBIDDEN).port(22).is_reachable, bool)
    own = ADDRESSES[name_of(host)]["inference"]
    arguments = " ".join((str(PROBE_PORT), own, FORBIDDEN, STORE, CONFIG, *PLACES))
    host.run_expect([0], "echo ARGUMENTS=%s >/run/deepseek-probe.env", json.dumps(arguments))
    host.run_expect([0], "systemctl daemon-reload")
    host.run_expect([0], f"systemctl start {PROBE}")
    log = f"journalctl --unit={PROBE} --identifier=python --lines=1 --output=cat -q"
    said = wait_for(lambda: str(host.check_output(log)), bool)
    # The systemd of Debian 12 was built without what SocketBindDeny needs, and says so in its log.
    enforced = "+BPF_FRAMEWORK" in host.check_output("systemctl --version")
    able = [] if enforced else ["listen on another port"]
    assert json.loads(said) == {"able": able, "unable": []}


def test_it_has_no_rights(status: dict[str, str]) -> None:
    users, groups = status["Uid"].split(), status["Gid"].split()
    assert "0" not in users
    assert "0" not in groups
    assert len({*users}) == len({*groups}) == 1
    capabilities = {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    assert capabilities == {"0000000000000000"}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_root_in_its_place_cannot_write(host: Any, worker: Worker) -> None:
    """What root cannot write in the worker's own view of the files, the worker cannot."""
    files = [f"{place.rstrip('/')}/written-by-the-test" for place in PLACES]
    done = host.run(f"nsenter --target={worker.process} --mount touch {' '.join(files)}")
    refused = re.findall(
        r"^touch: .*/written-by-the-test': "
        r"(?:Read-only file system|Permission denied|Not a directory)$",
        done.stderr,
        re.MULTILINE,
    )
    assert len(refused) == len(PLACES), done.stderr


def test_it_sees_the_store_and_no_other_directory(host: Any, worker: Worker) -> None:
    seen = host.check_output(
        f"nsenter --target={worker.process} --mount"
        " find /srv/deepseek /root -mindepth 1 -maxdepth 1"
    )
    assert seen.splitlines() == [STORE]


def test_it_does_not_see_the_token_of_the_release_host(host: Any, worker: Worker) -> None:
    tokens = "/etc/deepseek/hsm/release /var/lib/deepseek/hsm"
    there = host.run(f"ls {tokens}").rc == 0
    assert there == (name_of(host) == "inference-1")
    assert host.run(f"nsenter --target={worker.process} --mount ls {tokens}").rc != 0


def test_systemd_calls_the_unit_tight(host: Any, worker: Worker) -> None:
    host.run_expect([0], f"systemd-analyze security --no-pager --threshold=15 {worker.unit}")


def test_it_stays_on_its_processors_and_in_its_memory(
    host: Any, worker: Worker, status: dict[str, str]
) -> None:
    limits = host.service(worker.unit).systemd_properties
    assert limits["MemorySwapMax"] == "0"
    assert limits["TasksMax"] == "512"
    assert int(limits["MemoryMax"]) == (worker.memory_max or int(limits["MemoryMax"]))
    if worker.cpus:
        assert limits["CPUAffinity"] == worker.cpus
        assert status["Cpus_allowed_list"] == worker.cpus
