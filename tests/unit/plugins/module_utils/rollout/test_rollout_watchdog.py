# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a watchdog does with a HAProxy that does not answer, and with what it finds on its disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.gateway.runtime_api import (
    HaproxyError,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.judge import Settings
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.lease import OrderError
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.measures import MeasureError
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.settings import Servers
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.watchdog import (
    Means,
    Watchdog,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.windows import Windows
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.worker_measures import (
    Objectives,
    read_metrics,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.worker_readings import (
    FRESH_SECONDS,
    WorkerReadings,
    read_written,
)

METRICS = (
    Path(__file__).resolve().parents[5] / "tests/fixtures/rollout/worker.metrics"
).read_text()

COLUMNS = (
    "stot scur hrsp_2xx hrsp_3xx hrsp_4xx hrsp_5xx hrsp_other wretr wredis eresp cli_abrt srv_abrt"
)


class Host:
    """A HAProxy with a file of its shares, and a clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.answers = True
        self.refuses = False
        self.running: dict[str, int] = {}
        self.file: dict[str, int] = {}
        self.failures = 0
        self.requests = 0
        self.now = 100.0
        self.unread: set[str] = set()
        self.said: list[str] = []
        self.watchdog = self.started()

    def started(self) -> Watchdog:
        means = Means(self.shares, self.set_share, self.stat, lambda: 7, lambda: self.now, "boot-1")
        servers = {"chat": Servers("model:chat", ("new",), ("old",))}
        workers = WorkerReadings(
            self.metrics, Objectives(2.5, 0.1), lambda: self.now, self.said.append
        )
        return Watchdog(self.directory, servers, Settings(), Windows(30.0), means, workers)

    def metrics(self, server: str) -> str:
        if server in self.unread:
            raise OSError("refused")
        return METRICS

    def shares(self) -> dict[str, int]:
        if not self.answers:
            raise HaproxyError("it does not answer")
        return dict(self.running)

    def set_share(self, model: str, share: int) -> None:
        """As deepseek-gateway-share: the file first where a share is lowered."""
        if share == 0:
            self.file[model] = 0
        if not self.answers or self.refuses:
            raise HaproxyError("it does not answer")
        self.running[model] = self.file[model] = share

    def stat(self) -> str:
        names = COLUMNS.split()
        rows = []
        for server, failed in (("new", self.failures), ("old", 0)):
            counted = {
                "stot": self.requests,
                "hrsp_5xx": failed,
                "hrsp_2xx": self.requests - failed,
            }
            values = [str(counted.get(name, 0)) for name in names]
            rows.append(",".join(["model:chat", server, "UP", *values]))
        return "# pxname,svname,status," + ",".join(names) + "\n" + "\n".join(rows)

    def order(self, fencing: int, share: int, seconds: int = 120) -> dict[str, object]:
        order = {"model": "chat", "fencing": fencing, "share": share, "seconds": seconds}
        return self.watchdog.take(json.dumps(order).encode())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_an_order_is_answered_with_what_haproxy_says_and_its_counters(host: Host) -> None:
    reply = host.order(3, 250)
    assert (reply["share"], reply["tripped"], reply["process"], reply["down"]) == (250, "", 7, [])
    assert str(reply["stat"]).startswith("# pxname,svname")
    assert host.watchdog.look() == []


def test_an_order_is_answered_with_what_workers_count_as_long_as_it_is_fresh(host: Host) -> None:
    assert host.order(3, 250)["workers"] == {}
    host.unread = {"old"}
    host.watchdog.read_workers()
    host.watchdog.read_workers()
    assert host.said == ["the metrics of old cannot be read: refused"]
    host.unread = set()
    host.watchdog.read_workers()
    workers = json.loads(json.dumps(host.order(3, 250)["workers"]))
    assert sorted(workers) == ["new", "old"]
    expected = read_metrics(METRICS, Objectives(2.5, 0.1))
    assert all(read_written(one) == expected for one in workers.values())
    host.now += FRESH_SECONDS + 1
    assert host.order(3, 250)["workers"] == {}


def test_the_workers_of_a_model_without_a_share_are_left_alone(host: Host) -> None:
    host.order(3, 0)
    host.unread = {"old", "new"}
    host.watchdog.read_workers()
    assert host.said == []


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"first": [1, 2], "tokens": [0, 0], "clients": []},
        {"first": [3, 2], "tokens": [0, 0], "clients": {}},
        {"first": [-1, 2], "tokens": [0, 0], "clients": {}},
        {"first": [True, 2], "tokens": [0, 0], "clients": {}},
        {"first": [1.0, 2], "tokens": [0, 0], "clients": {}},
        {"first": [1, 2, 3], "tokens": [0, 0], "clients": {}},
        {"first": [1, 2], "tokens": [0, 0], "clients": {"one": 1}},
    ],
)
def test_a_reading_that_is_none_is_refused(document: object) -> None:
    with pytest.raises(MeasureError):
        read_written(document)


def test_a_canary_that_is_bad_by_the_own_counts_loses_its_share(host: Host) -> None:
    host.order(3, 250)
    host.requests, host.failures = 50, 25
    assert "25 of 50 canary requests" in host.watchdog.look()[0]
    assert host.running == host.file == {"chat": 0}
    assert "25 of 50 canary requests" in str(host.order(3, 250)["tripped"])
    assert host.running == {"chat": 0}


def test_failures_before_an_order_do_not_count(host: Host) -> None:
    host.requests, host.failures = 50, 25
    host.order(3, 250)
    host.requests += 100
    assert host.watchdog.look() == []


def test_a_share_whose_lease_ran_out_is_not_in_the_file_either_while_haproxy_is_away(
    host: Host,
) -> None:
    host.order(3, 250)
    host.answers = False
    host.now += 121
    with pytest.raises(HaproxyError):
        host.watchdog.look()
    assert host.file == {"chat": 0}


def test_a_watchdog_that_starts_again_goes_on_with_the_last_order(host: Host) -> None:
    host.order(3, 250)
    host.watchdog = host.started()
    assert host.watchdog.look() == []
    with pytest.raises(OrderError, match="somebody else steers"):
        host.order(2, 500)
    host.now += 121
    assert len(host.watchdog.look()) == 1
    assert host.running == {"chat": 0}


def test_an_order_that_haproxy_does_not_take_is_an_error_and_is_kept(host: Host) -> None:
    host.refuses = True
    with pytest.raises(OrderError, match="HAProxy did not take it"):
        host.order(3, 250)
    host.refuses = False
    assert host.order(3, 250)["share"] == 250


def test_a_renewal_gives_nothing_back_that_was_taken_away_here(host: Host) -> None:
    host.order(3, 250)
    host.set_share("chat", 0)
    assert host.order(3, 250)["share"] == 0
    assert host.order(4, 250)["share"] == 250


def test_an_order_on_disk_that_cannot_be_read_gives_no_share(host: Host) -> None:
    host.order(3, 250)
    (host.directory / "chat.json").unlink()
    (host.directory / "chat.json").write_bytes(b"{")
    assert "nobody ordered it" in host.watchdog.look()[0]
    assert host.running == {"chat": 0}


def test_a_canary_that_this_gateway_does_not_know_loses_its_share(host: Host) -> None:
    order = {"model": "code", "fencing": 1, "share": 50, "seconds": 120}
    host.watchdog.take(json.dumps(order).encode())
    assert "knows no canary of code" in host.watchdog.look()[0]
    assert host.running == {"code": 0}
