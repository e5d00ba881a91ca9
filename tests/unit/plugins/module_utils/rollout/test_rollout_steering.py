# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a turn of steering does with what the gateways say, and with what they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout import machine, record_file
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.gateways import (
    GatewayError,
    Reply,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.judge import (
    Settings as JudgeSettings,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.lease import Order
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.measures import (
    Counters,
    Reading,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.record import (
    Record,
    Release,
    State,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.settings import Servers
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.stages import Stages
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.steering import (
    Policy,
    Steering,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.windows import Windows
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.worker_measures import (
    Generations,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.worker_measures import (
    Reading as WorkerReading,
)

PLAN = machine.Plan(
    Release("1.0.0", "a" * 64),
    Release("1.1.0", "b" * 64),
    (50, 500),
    ("gateway-1", "gateway-2"),
    "ops",
)
SERVERS = {"chat": Servers("model:chat", ("new",), ("old",))}


class Site:
    """Two gateways that do what they are told, a clock, and requests as a test says."""

    def __init__(self, directory: Path, **judged: object) -> None:
        self.now = 1000.0
        self.orders: list[tuple[str, Order]] = []
        self.silent: set[str] = set()
        self.tripped: dict[str, str] = {}
        self.left: dict[str, int] = {}
        self.down: tuple[str, ...] = ()
        self.unread = False
        self.slow: dict[str, int] = {}
        # 0: as a model that makes vectors
        self.generates = 1
        self.counters = {("model:chat", "new"): Counters(), ("model:chat", "old"): Counters()}
        stages = Stages(SERVERS, Windows(30.0), lambda: self.now, lambda: self.now)
        self.steering = Steering(
            str(directory),
            "release-1",
            Policy(judge=replace(JudgeSettings(), **judged)),  # type: ignore[arg-type]
            self.tell,
            stages.judge,
            lambda: self.now,
        )

    def tell(self, name: str, order: Order) -> Reply:
        if name in self.silent:
            raise GatewayError(f"{name} does not answer")
        self.orders.append((name, order))
        tripped = self.tripped.get(name, "")
        reading = Reading(7, dict(self.counters))
        share = min(order.share, self.left.get(name, order.share))
        return Reply(0 if tripped else share, tripped, reading, self.down, self.workers())

    def workers(self) -> dict[str, WorkerReading]:
        """As every gateway reads them: what each was asked, and how much of that was slow."""
        if self.unread:
            return {}
        return {
            server: WorkerReading(
                self.slow.get(server, 0),
                one.sessions,
                0,
                one.sessions * self.generates,
                {"a": Generations(0, one.sessions * self.generates)},
            )
            for (_backend, server), one in self.counters.items()
        }

    def requests(self, server: str, good: int, bad: int = 0) -> None:
        """As each of the two gateways counts them."""
        before = self.counters[("model:chat", server)]
        self.counters[("model:chat", server)] = replace(
            before,
            sessions=before.sessions + good + bad,
            heads=before.heads + good + bad,
            heads_5xx=before.heads_5xx + bad,
        )

    def turn(self, seconds: float = 1.0) -> Record:
        self.now += seconds
        return self.steering.turn("chat")

    def turns(self, count: int = 3) -> Record:
        return [self.turn() for _ in range(count)][-1]

    def change(self, function: object) -> Record:
        return record_file.change(self.steering.directory, "chat", function)  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    begin(made)
    return made


def begin(site: Site) -> None:
    site.change(lambda record: machine.prepare(record, PLAN, site.now))
    site.turn()
    site.change(lambda record: machine.start(record, site.now))
    assert site.turn().settled


def test_a_good_canary_gets_share_after_share_and_waits_for_its_promotion(site: Site) -> None:
    site.turn()
    site.requests("new", 400)
    site.requests("old", 4000)
    second = site.turn()
    assert (second.state, second.step, second.share) == (State.STEP, 1, 500)
    site.turns()
    site.requests("new", 400)
    site.requests("old", 400)
    ready = site.turns()
    assert machine.is_ready(ready)
    good = [decision for decision in ready.decisions if decision.kind == "good"]
    assert [decision.step for decision in good] == [0, 1]
    assert good[0].measures["failures"]["canary_all"] == 800
    assert good[0].thresholds["stage_seconds"] > 0


def test_requests_of_the_step_before_do_not_count_for_the_next(site: Site) -> None:
    site.turn()
    site.requests("new", 400)
    site.requests("old", 4000)
    site.turn()
    assert not machine.is_ready(site.turns(6))


def test_a_canary_without_requests_is_held_and_then_rolled_back_never_promoted(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, patience_seconds=3600.0)
    begin(site)
    held = site.turns()
    assert (held.state, held.decisions[-1].kind) == (State.STEP, "hold")
    over = site.turn(3600.0)
    assert over.state is State.ROLLING_BACK
    assert over.decisions[-1].kind == "bad"
    assert site.turn().state is State.ROLLED_BACK


def test_a_canary_is_judged_while_it_is_promoted(site: Site) -> None:
    site.turn()
    for _step in range(2):
        site.requests("new", 400)
        site.requests("old", 4000)
        site.turns()
    site.change(lambda record: machine.promote(record, site.now, "ops"))
    assert site.turns(5).state is State.PROMOTING
    site.requests("new", 0, 50)
    site.requests("old", 50)
    assert site.turn().state is State.ROLLING_BACK


def test_what_one_gateway_found_bad_is_taken_from_all(site: Site) -> None:
    site.tripped["gateway-2"] = "failures"
    rolling = site.turn()
    assert (rolling.state, rolling.reason) == (State.ROLLING_BACK, "gateway-2: failures")
    assert site.turn().state is State.ROLLED_BACK
    assert {order.share for _name, order in site.orders[-2:]} == {0}


def test_what_somebody_took_away_at_one_gateway_is_taken_from_all(site: Site) -> None:
    site.turn()
    site.left["gateway-2"] = 0
    rolling = site.turn()
    assert (rolling.state, rolling.reason) == (
        State.ROLLING_BACK,
        "gateway-2: 0 thousandths are left of 50: they were taken away there",
    )


def test_a_share_that_is_not_everywhere_in_time_is_taken_back(site: Site) -> None:
    site.turn()
    site.requests("new", 400)
    site.requests("old", 4000)
    assert site.turn().step == 1
    site.silent = {"gateway-2"}
    assert site.turn(5.0).step == 1
    lowered = site.turn(6.0)
    assert (lowered.state, lowered.step, lowered.decisions[-1].kind) == (State.STEP, 0, "lower")
    assert "gateway-2 does not answer" in lowered.reason


def test_a_gateway_that_falls_silent_has_the_time_of_its_lease(site: Site) -> None:
    site.turn()
    site.silent = {"gateway-1"}
    assert site.turn(119.0).state is State.STEP
    rolling = site.turn(3.0)
    assert rolling.state is State.ROLLING_BACK
    # its own watchdog has lowered it; until it says so, it is not written down
    assert site.turns().state is State.ROLLING_BACK
    site.silent = set()
    assert site.turn().state is State.ROLLED_BACK


def test_a_judgement_waits_for_a_gateway_that_does_not_answer(site: Site) -> None:
    site.turn()
    site.silent = {"gateway-1"}
    site.requests("new", 400)
    site.requests("old", 4000)
    assert site.turn().step == 0


def test_nothing_is_promoted_beside_a_stable_release_in_trouble(site: Site) -> None:
    site.turn()
    site.down = ("old",)
    site.requests("new", 400)
    site.requests("old", 4000)
    held = site.turn()
    assert (held.step, held.decisions[-1].kind) == (0, "hold")
    assert "stable servers are down" in held.decisions[-1].reason


def test_a_canary_whose_servers_a_gateway_does_not_know_is_held(site: Site) -> None:
    site.counters.pop(("model:chat", "new"))
    assert site.turns().decisions[-1].reason.startswith("failures: could not be measured")


def test_a_process_that_was_taken_over_changes_nothing(site: Site) -> None:
    record = record_file.read(site.steering.directory, "chat")

    def tell(name: str, order: Order) -> Reply:
        # while it waits for an answer, another process comes
        site.steering.take_over()
        return site.tell(name, order)

    with pytest.raises(record_file.StaleError):
        replace(site.steering, tell=tell).turn("chat")
    after = record_file.read(site.steering.directory, "chat")
    assert (after.state, after.share) == (record.state, record.share)
    assert site.turn().settled


def test_a_rollout_at_rest_is_left_alone(site: Site) -> None:
    site.change(lambda record: machine.roll_back(record, site.now, "told to"))
    site.turn()
    orders = len(site.orders)
    assert site.steering.open_models() == []
    assert site.turn().state is State.ROLLED_BACK
    site.steering.take_over()
    assert len(site.orders) == orders


def test_a_slow_canary_is_rolled_back_although_no_request_fails(site: Site) -> None:
    site.turn()
    site.requests("new", 300)
    site.requests("old", 3000)
    site.slow = {"new": 60, "old": 10}
    record = site.turn()
    assert record.state is State.ROLLING_BACK
    assert record.reason.startswith("slow_first_tokens: 60 of 300 canary requests")


def test_a_canary_of_which_nobody_reads_what_it_counts_is_held_and_never_good(site: Site) -> None:
    site.unread = True
    site.turn()
    site.requests("new", 400)
    site.requests("old", 4000)
    record = site.turns()
    assert (record.state, record.step) == (State.STEP, 0)
    assert "slow_first_tokens: could not be measured" in record.decisions[-1].reason
    site.requests("new", 2000)
    site.requests("old", 20000)
    assert site.turn().state is State.ROLLING_BACK


def test_what_neither_release_does_is_not_waited_for_once_it_had_time_to_be_seen(
    site: Site,
) -> None:
    site.generates = 0
    site.turn()
    site.requests("new", 400)
    site.requests("old", 4000)
    early = site.turn()
    assert "slow_tokens: could not be measured" in early.decisions[-1].reason
    assert site.turn(31).step == 1


def test_a_restart_of_a_worker_loses_nothing_of_what_it_counted(site: Site) -> None:
    site.turn()
    site.requests("new", 100)
    site.requests("old", 1000)
    site.slow = {"new": 2}
    site.turn()
    # HAProxy counts on, the worker from zero
    totals, workers = dict(site.counters), site.workers
    site.workers = lambda: {  # type: ignore[method-assign]
        name: WorkerReading(1, 50, 0, 50, {"a": Generations(0, 50)}) for name in workers()
    }
    assert site.counters == totals
    measures = site.turn().decisions[-1].measures["slow_first_tokens"]
    assert (measures["canary_bad"], measures["canary_all"]) == (3, 150)
