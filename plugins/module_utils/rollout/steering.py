# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One turn of steering a rollout: order what the record says, write down what the gateways say, judge, and go on or back.

A turn may end at any point, and may be taken by two processes: what is written has its number, and what is ordered twice is
the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from . import machine, record_file
from .gateways import Reply, Tell, tell_all
from .judge import BAD, GOOD, HOLD
from .judge import Decision as Judgement
from .judge import Settings as JudgeSettings
from .lease import Order
from .record import AT_REST, EXPOSED, MAX_TEXT, Decision, Record, State

LEASE_SECONDS = 120
SETTLE_SECONDS = 10.0


@dataclass(frozen=True)
class Policy:
    """For how long gateways may hear nothing, how long a share may take to be everywhere, and how a canary is judged."""

    lease_seconds: int = LEASE_SECONDS
    settle_seconds: float = SETTLE_SECONDS
    judge: JudgeSettings = field(default_factory=JudgeSettings)


# What the gateways say about a model, by gateway, since a share was everywhere; None where nothing can be said yet.
Judge = Callable[[Record, Mapping[str, Reply], JudgeSettings], "Judgement | None"]


@dataclass(frozen=True)
class Steering:
    """The records of a release host, and the means to act on them."""

    directory: str
    holder: str
    policy: Policy
    tell: Tell
    judge: Judge
    clock: Callable[[], float] = time.time
    say: Callable[[str], object] = str

    def take_over(self) -> None:
        """At a start: what an earlier process may still order is refused from now on."""
        for model in record_file.models(self.directory):
            if self._is_open(record_file.read(self.directory, model)):
                record_file.change(
                    self.directory, model, lambda record: machine.take_over(record, self.clock())
                )

    def open_models(self) -> list[str]:
        """Models with something to do."""
        return [
            model
            for model in record_file.models(self.directory)
            if self._is_open(record_file.read(self.directory, model))
        ]

    def turn(self, model: str) -> Record:
        """Do what is to be done now. Raises record_file.StaleError where somebody else steers, RecordError, OSError."""
        record = record_file.read(self.directory, model)
        if not self._is_open(record):
            return record
        orders = {
            name: Order(model, record.fencing, share.wanted, self.policy.lease_seconds)
            for name, share in record.gateways.items()
        }
        said, errors = tell_all(self.tell, orders)
        failed = "; ".join(str(error) for error in errors.values())
        if failed:
            self.say(failed)
        return record_file.change(
            self.directory,
            model,
            lambda present: self._next(present, said, failed),
            record.fencing,
        )

    def _is_open(self, record: Record) -> bool:
        return record.state not in AT_REST | {State.PREPARED} or not record.settled

    def _next(self, record: Record, said: Mapping[str, Reply], failed: str) -> Record:
        now = self.clock()
        tripped = [f"{name}: {reply.tripped}" for name, reply in said.items() if reply.tripped]
        tripped += _taken_away(record, said)
        for name, reply in said.items():
            record = machine.observe(record, name, reply.share)
        if record.state is State.ROLLING_BACK:
            return machine.rolled_back(record, now)
        if record.state not in EXPOSED:
            return record
        if tripped:
            return self._rolled(record, "; ".join(tripped))
        if failed:
            return self._without_answer(record, failed)
        record = machine.renew(record, self.holder, now, self.policy.lease_seconds)
        if not record.settled:
            return self._unsettled(record)
        return self._judged(record, said)

    def _without_answer(self, record: Record, failed: str) -> Record:
        """Somebody does not answer: a share that is not everywhere is taken back, one that was everywhere waits for its lease."""
        if not record.settled:
            return self._unsettled(record, failed)
        heard = record.lease.renewed_at if record.lease else record.entered_at
        if self.clock() - heard > self.policy.lease_seconds:
            return self._rolled(record, f"for {self.policy.lease_seconds} s: {failed}")
        return record

    def _unsettled(self, record: Record, failed: str = "") -> Record:
        now = self.clock()
        if now - record.entered_at <= self.policy.settle_seconds:
            return record
        have = {name: share.read_back for name, share in record.gateways.items()}
        reason = (
            f"{record.share} thousandths are not everywhere after {self.policy.settle_seconds:g} s: "
            f"{failed or have}"
        )
        order = Decision(now, record.state, record.step, "lower", reason)
        return machine.lower(machine.decide(record, order), now, reason)

    def _rolled(self, record: Record, reason: str) -> Record:
        now = self.clock()
        order = Decision(now, record.state, record.step, "roll_back", reason)
        return machine.roll_back(machine.decide(record, order), now, reason)

    def _judged(self, record: Record, said: Mapping[str, Reply]) -> Record:
        now = self.clock()
        decision = self.judge(record, said, self._settings(record))
        if decision is None:
            return record
        if decision.kind == BAD:
            written = machine.decide(record, written_decision(decision, record, now))
            return machine.roll_back(written, now, decision.reason)
        if record.state is not State.STEP or machine.is_good(record):
            # guarded, and not judged again
            return record
        record = machine.decide(record, written_decision(decision, record, now))
        last = record.step == len(record.steps) - 1
        return record if decision.kind != GOOD or last else machine.advance(record, now)

    def _settings(self, record: Record) -> JudgeSettings:
        """As they are; where the judgement was good already, and while it is promoted, only what is bad counts."""
        settings = self.policy.judge
        if record.state is State.STEP and not machine.is_good(record):
            return settings
        return replace(settings, undecided=HOLD)


def _taken_away(record: Record, said: Mapping[str, Reply]) -> list[str]:
    """Gateways that had the share and have less now, without having found anything: somebody took it away there, and means it."""
    had = {
        name: share for name, share in record.gateways.items() if share.read_back == share.wanted
    }
    return [
        f"{name}: {reply.share} thousandths are left of {had[name].wanted}: they were taken away there"
        for name, reply in said.items()
        if name in had and reply.share < had[name].wanted and not reply.tripped
    ]


def written_decision(decision: Judgement, record: Record, now: float) -> Decision:
    """Return a judgement as the record has it: every number of each measure, and the thresholds that it was compared with."""
    return Decision(
        at=now,
        state=record.state,
        step=record.step,
        kind=decision.kind,
        reason=decision.reason[:MAX_TEXT],
        measures=_floats(decision.measures()),
        thresholds=_floats({"": decision.thresholds()})[""],
    )


def _floats(numbers: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return numbers as they are read again."""
    return {
        name: {key: float(value) for key, value in one.items()} for name, one in numbers.items()
    }
