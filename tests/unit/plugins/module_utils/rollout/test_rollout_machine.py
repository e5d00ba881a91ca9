# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever happens in whatever order: no gateway has a share that the record does not give."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout import machine, record_file
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.lease import (
    Kept,
    Order,
    OrderError,
    accept,
    allowed,
    trip,
    watch,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.machine import (
    Plan,
    TransitionError,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.record import (
    AT_REST,
    Decision,
    Record,
    Release,
    State,
)

STABLE = Release("1.0.0", "a" * 64)
CANARIES = (Release("1.1.0", "b" * 64), Release("1.2.0", "c" * 64))
GATEWAYS = ("gateway-1", "gateway-2")
STEPS = (50, 250)
LEASE = 120
PLAN = Plan(STABLE, CANARIES[0], STEPS, GATEWAYS, "ops")


class Gateway:
    """A watchdog and its HAProxy: what is kept is on disk, the share is in HAProxy."""

    def __init__(self) -> None:
        self.kept: Kept | None = None
        self.share = 0
        self.highest = 0
        self.boot = "1"

    def order(self, order: Order, now: float) -> int:
        self.kept = accept(self.kept, order, now, self.boot)
        self.highest = max(self.highest, order.fencing)
        self.share = allowed(self.kept)
        return self.share

    def look(self, now: float) -> None:
        if self.kept:
            self.kept = watch(self.kept, now, self.boot)
        self.share = min(self.share, allowed(self.kept))


class Controller:
    """A process that steers, between two looks at the record."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.left = list(record.gateways)
        self.seen: dict[str, int] = {}


class Rollouts(RuleBasedStateMachine):
    """Two gateways, a record in a file, and controllers, each of which may end at any point."""

    controllers: Bundle[Controller] = Bundle("controllers")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.now = 1.0
        self.gateways = {name: Gateway() for name in GATEWAYS}
        self.told: set[str] = set()

    def teardown(self) -> None:
        """A controller that finds what the others left takes every share away."""
        self.change(lambda record: machine.take_over(record, self.now))
        self.change(lambda record: machine.roll_back(record, self.now, "the test is over"))
        final = self.read()
        for name in final.gateways:
            self.gateways[name].order(self.order_of(final, name), self.now)
            self.change(
                lambda record, name=name: machine.observe(record, name, self.gateways[name].share)
            )
        final = self.change(lambda record: machine.rolled_back(record, self.now))
        assert final.state in AT_REST
        assert all(self.gateways[name].share == 0 for name in final.gateways)
        self.directory.cleanup()

    def read(self) -> Record:
        return record_file.read(self.directory.name, "chat")

    def change(self, function: Callable[..., Record], fencing: int | None = None) -> Record:
        return record_file.change(self.directory.name, "chat", function, fencing)

    def order_of(self, record: Record, name: str) -> Order:
        return Order("chat", max(record.fencing, 1), record.gateways[name].wanted, LEASE)

    def attempt(self, function: Callable[[Record], Record]) -> None:
        with contextlib.suppress(TransitionError):
            self.change(function)

    @initialize()
    def begin(self) -> None:
        self.change(lambda record: machine.prepare(record, PLAN, self.now))

    @rule(canary=st.sampled_from(CANARIES), retry=st.booleans())
    def prepare(self, canary: Release, retry: bool) -> None:
        before = self.read()
        try:
            after = self.change(
                lambda record: machine.prepare(
                    record, replace(PLAN, canary=canary, retry=retry), self.now
                )
            )
        except TransitionError:
            known = before.is_refused(canary.digest) or canary == before.stable
            assert known or before.state not in AT_REST
            return
        if after != before:
            assert before.state in AT_REST
            assert retry or not before.is_refused(canary.digest)

    @rule()
    def start(self) -> None:
        self.attempt(lambda record: machine.start(record, self.now))

    @rule(kind=st.sampled_from(["good", "bad", "hold"]))
    def judge(self, kind: str) -> None:
        self.attempt(
            lambda record: machine.decide(
                record, Decision(self.now, record.state, record.step, kind, "")
            )
        )

    @rule()
    def advance(self) -> None:
        before = self.read()
        self.attempt(lambda record: machine.advance(record, self.now))
        if self.read().step > before.step:
            assert before.settled
            assert before.decisions[-1].kind == "good"

    @rule()
    def lower(self) -> None:
        before = self.read()
        after = self.change(lambda record: machine.lower(record, self.now, "not all took it"))
        assert after.share <= before.share

    @rule()
    def promote(self) -> None:
        self.attempt(lambda record: machine.promote(record, self.now, "ops"))

    @rule()
    def finish(self) -> None:
        self.attempt(lambda record: machine.finish(record, self.now))

    @rule(times=st.integers(1, 2))
    def roll_back(self, times: int) -> None:
        before = self.read()
        for _ in range(times):
            after = self.change(lambda record: machine.roll_back(record, self.now, "told to"))
        assert after.share == 0 or before.state in AT_REST
        if before.state in AT_REST | {State.ROLLING_BACK}:
            assert after == before

    @rule(target=controllers)
    def come(self) -> Controller:
        """A process starts, takes the rollout over, and has not yet done anything."""
        return Controller(self.change(lambda record: machine.take_over(record, self.now)))

    @rule(target=controllers)
    def look_again(self) -> Controller:
        return Controller(self.read())

    @rule(target=controllers, controller=controllers)
    def stop(self, controller: Controller) -> Any:
        """It ends between two things: whatever it knew is lost."""
        controller.left.clear()
        controller.seen.clear()
        return multiple()

    @rule(controller=controllers)
    def tell_a_gateway(self, controller: Controller) -> None:
        if not controller.left:
            return
        name = controller.left.pop()
        gateway = self.gateways[name]
        before = gateway.share
        order = self.order_of(controller.record, name)
        stale = order.fencing < gateway.highest
        try:
            controller.seen[name] = gateway.order(order, self.now)
            assert not stale
        except OrderError:
            assert gateway.share == before

    @rule(controller=controllers)
    def write_what_was_said(self, controller: Controller) -> None:
        for name, share in controller.seen.items():
            try:
                self.change(
                    lambda record, name=name, share=share: machine.observe(record, name, share),
                    controller.record.fencing,
                )
            except record_file.StaleError:
                assert self.read().fencing > controller.record.fencing
        self.change(lambda record: machine.rolled_back(record, self.now))

    @rule(seconds=st.sampled_from([1, LEASE, LEASE + 1]))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        for gateway in self.gateways.values():
            silent = gateway.kept is not None and self.now - gateway.kept.heard > LEASE
            gateway.look(self.now)
            assert not silent or gateway.share == 0

    @rule(name=st.sampled_from(GATEWAYS))
    def find_it_bad(self, name: str) -> None:
        gateway = self.gateways[name]
        if gateway.kept:
            gateway.kept = trip(gateway.kept, "the canary is bad")
            gateway.look(self.now)

    @invariant()
    def a_gateway_has_at_most_what_its_newest_order_gives(self) -> None:
        record = self.read()
        for name, gateway in self.gateways.items():
            assert gateway.highest <= record.fencing
            if gateway.kept and gateway.kept.order.fencing == record.fencing:
                assert gateway.share <= record.share
            if gateway.kept and gateway.kept.tripped:
                assert gateway.share == 0
            seen = record.gateways.get(name)
            if seen and seen.read_back is not None:
                assert gateway.share <= seen.read_back

    @invariant()
    def nothing_is_left_where_it_was_rolled_back(self) -> None:
        record = self.read()
        if record.state is State.ROLLED_BACK:
            assert all(self.gateways[name].share == 0 for name in record.gateways)
            assert record.canary is not None
            assert record.is_refused(record.canary.digest)


def test_no_order_of_events_gives_a_share_that_the_record_does_not() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Rollouts, settings=settings(max_examples=30, stateful_step_count=40, deadline=None)
    )


def settle(record: Record) -> Record:
    for name, share in record.gateways.items():
        record = machine.observe(record, name, share.wanted)
    return record


def judged(record: Record, kind: str, at: float = 10.0) -> Record:
    return machine.decide(record, Decision(at, record.state, record.step, kind, ""))


PREPARED = settle(machine.prepare(Record("chat"), PLAN, 1.0))
FIRST = settle(machine.start(PREPARED, 2.0))
LAST = settle(machine.advance(judged(FIRST, "good"), 11.0))


def test_a_rollout_goes_from_step_to_step_and_becomes_the_stable_release() -> None:
    assert [record.share for record in (PREPARED, FIRST, LAST)] == [0, 50, 250]
    promoting = settle(machine.promote(judged(LAST, "good", 12.0), 13.0, "ops"))
    assert (promoting.state, promoting.share) == (State.PROMOTING, 250)
    done = machine.finish(promoting, 14.0)
    assert (done.state, done.share, done.stable) == (State.DONE, 0, CANARIES[0])
    assert {share.wanted for share in done.gateways.values()} == {0}


def test_every_transition_orders_under_a_higher_number_and_asks_the_gateways_again() -> None:
    last = 0
    for record in (
        machine.prepare(Record("chat"), PLAN, 1.0),
        machine.start(PREPARED, 2.0),
        machine.advance(judged(FIRST, "good"), 3.0),
        machine.promote(judged(LAST, "good", 12.0), 13.0, "ops"),
        machine.roll_back(machine.promote(judged(LAST, "good", 12.0), 13.0, "ops"), 14.0, ""),
    ):
        assert record.fencing > last
        assert not record.settled
        last = record.fencing


@pytest.mark.parametrize("record", [PREPARED, FIRST, LAST])
def test_the_same_start_twice_changes_nothing(record: Record) -> None:
    assert machine.prepare(record, PLAN, 99.0) == record
    started = machine.start(record, 99.0)
    assert machine.start(started, 100.0) == started


def test_another_canary_beside_one_is_refused() -> None:
    with pytest.raises(TransitionError, match="promote or roll back that one first"):
        machine.prepare(FIRST, replace(PLAN, canary=CANARIES[1]), 9.0)


def test_a_canary_that_was_good_at_its_last_share_goes_on_with_other_steps() -> None:
    """As from stage to stage: without a share until it starts again, and judged again."""
    more = replace(PLAN, steps=(10, *PLAN.steps))
    with pytest.raises(TransitionError, match="promote or roll back that one first"):
        machine.prepare(LAST, more, 13.0)
    again = machine.prepare(judged(LAST, "good", 12.0), more, 13.0)
    assert (again.state, again.share, again.steps) == (State.PREPARED, 0, more.steps)
    assert (again.decisions, again.started_at) == ((), 13.0)


def test_a_canary_that_is_the_stable_release_is_refused() -> None:
    with pytest.raises(TransitionError, match="is the stable release"):
        machine.prepare(Record("chat"), replace(PLAN, canary=STABLE), 9.0)


@pytest.mark.parametrize("kind", ["hold", "bad"])
def test_a_step_is_left_upwards_only_when_it_was_judged_good(kind: str) -> None:
    with pytest.raises(TransitionError, match="not been judged good"):
        machine.advance(judged(FIRST, kind), 11.0)
    with pytest.raises(TransitionError, match="judged good at its last share"):
        machine.promote(judged(LAST, kind, 12.0), 13.0, "ops")


def test_a_judgement_of_a_step_does_not_count_for_the_next_one() -> None:
    with pytest.raises(TransitionError, match="judged good at its last share"):
        machine.promote(LAST, 13.0, "ops")


def test_a_judgement_before_a_step_was_gone_back_to_does_not_count() -> None:
    back = settle(machine.lower(LAST, 20.0, "gateway-2 does not answer"))
    assert (back.state, back.step) == (State.STEP, 0)
    with pytest.raises(TransitionError, match="not been judged good"):
        machine.advance(back, 21.0)


def test_a_step_that_not_all_gateways_took_is_no_step_to_go_on_from() -> None:
    unsettled = machine.advance(judged(FIRST, "good"), 11.0)
    with pytest.raises(TransitionError):
        machine.promote(judged(unsettled, "good", 12.0), 13.0, "ops")


def test_the_first_step_is_lowered_by_rolling_back() -> None:
    assert machine.lower(FIRST, 9.0, "x").state is State.ROLLING_BACK


def test_a_canary_starts_only_when_every_gateway_said_that_it_has_no_share() -> None:
    with pytest.raises(TransitionError, match="gateway-1, gateway-2"):
        machine.start(machine.prepare(Record("chat"), PLAN, 1.0), 2.0)


def test_rolling_back_twice_and_rolling_back_nothing_change_nothing() -> None:
    rolling = machine.roll_back(FIRST, 5.0, "failures")
    assert machine.roll_back(rolling, 6.0, "again") == rolling
    rolled = machine.rolled_back(settle(rolling), 7.0)
    assert rolled.state is State.ROLLED_BACK
    for rest in (rolled, Record("chat"), replace(rolled, state=State.DONE)):
        assert machine.roll_back(rest, 8.0, "again") == rest


def test_it_is_rolled_back_only_when_every_gateway_said_so() -> None:
    rolling = machine.roll_back(FIRST, 5.0, "failures")
    one = machine.observe(rolling, "gateway-1", 0)
    assert machine.rolled_back(one, 7.0).state is State.ROLLING_BACK


def test_a_release_that_was_rolled_back_is_refused_until_told() -> None:
    rolled = machine.rolled_back(settle(machine.roll_back(FIRST, 5.0, "Too slow.")), 7.0)
    with pytest.raises(TransitionError, match=r"was rolled back: Too slow. Set canary_retry: true"):
        machine.prepare(rolled, PLAN, 9.0)
    again = machine.prepare(rolled, replace(PLAN, retry=True), 9.0)
    assert again.state is State.PREPARED
    assert not again.is_refused(CANARIES[0].digest)
    other = machine.prepare(rolled, replace(PLAN, canary=CANARIES[1]), 9.0)
    assert other.is_refused(CANARIES[0].digest)


def test_of_holds_that_follow_each_other_the_last_one_is_kept() -> None:
    record = judged(judged(judged(FIRST, "hold", 3.0), "hold", 4.0), "good", 5.0)
    assert [(item.kind, item.at) for item in record.decisions] == [("hold", 4.0), ("good", 5.0)]


def test_a_record_that_somebody_else_changed_is_not_written_over(tmp_path: Path) -> None:
    record_file.change(str(tmp_path), "chat", lambda record: machine.prepare(record, PLAN, 1.0))
    with pytest.raises(record_file.StaleError, match="somebody else steers"):
        record_file.change(str(tmp_path), "chat", lambda record: record, fencing=0)
    assert record_file.models(str(tmp_path)) == ["chat"]


def test_a_transition_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    record_file.change(str(tmp_path), "chat", lambda record: machine.prepare(record, PLAN, 1.0))
    before = (tmp_path / "chat.json").read_bytes()
    with pytest.raises(TransitionError):
        record_file.change(str(tmp_path), "chat", lambda record: machine.finish(record, 1.0))
    assert (tmp_path / "chat.json").read_bytes() == before
