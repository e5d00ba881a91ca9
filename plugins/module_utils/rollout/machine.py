# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""States of a rollout, and what leads from one to the next.

    idle, done, rolled_back -> prepared -> step 0 -> step 1 ... -> promoting -> done
    prepared, step, promoting -> rolling_back -> rolled_back

Every function takes a record and gives the next one: first it is written, then the gateways are told, then what HAProxy says is
written. A transition orders shares again under a higher fencing number; a process that acts on an older record is refused by the
gateways. What is asked for twice, or is so already, gives the record that was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .record import (
    AT_REST,
    EXPOSED,
    MAX_DECISIONS,
    MAX_REFUSED,
    MAX_TEXT,
    Decision,
    Lease,
    Record,
    Refusal,
    Release,
    Share,
    State,
)


class TransitionError(Exception):
    """The rollout is not where this would lead on from; nothing was changed."""


@dataclass(frozen=True)
class Plan:
    """What is asked for: the releases, the rising shares in thousandths, all gateways of the site, and by whom."""

    stable: Release
    canary: Release
    steps: tuple[int, ...]
    gateways: tuple[str, ...]
    by: str
    retry: bool = False


def prepare(record: Record, plan: Plan, now: float) -> Record:
    """Begin: the canary's workers hold the verified release and answered their golden prompts; no user has asked them."""
    same = (record.stable, record.canary) == (plan.stable, plan.canary)
    if record.state not in AT_REST and same and record.steps == plan.steps:
        return record
    # The same canary goes on with other steps once it was good at its last one, as from stage to stage.
    if record.state not in AT_REST and not (same and is_ready(record)):
        raise TransitionError(
            f"{record.model} is {record.state.value} with {_words(record.canary)} in steps of {_percents(record.steps)}: "
            "promote or roll back that one first"
        )
    if plan.canary.digest == plan.stable.digest:
        raise TransitionError(
            f"the canary of {record.model} is the stable release: {_words(plan.stable)}"
        )
    if record.is_refused(plan.canary.digest) and not plan.retry:
        last = [item for item in record.refused if item.digest == plan.canary.digest][-1]
        raise TransitionError(
            f"{_words(plan.canary)} was rolled back: {last.reason} Set canary_retry: true to try it again"
        )
    begun = replace(
        record,
        refused=tuple(item for item in record.refused if item.digest != plan.canary.digest),
        stable=plan.stable,
        canary=plan.canary,
        steps=plan.steps,
        gateways=dict.fromkeys(plan.gateways, Share(0)),
        decisions=(),
        lease=None,
        started_by=plan.by[:MAX_TEXT],
        started_at=now,
    )
    return _enter(begun, State.PREPARED, 0, now, f"prepared by {plan.by}")


def start(record: Record, now: float) -> Record:
    """Give the canary its first share."""
    if record.state in EXPOSED:
        return record
    if record.state is not State.PREPARED:
        raise TransitionError(
            f"{record.model} is {record.state.value}: there is no canary to start"
        )
    if not record.settled:
        raise TransitionError(
            f"not every gateway has said that {record.model} has no share yet: {_unsettled(record)}"
        )
    return _enter(record, State.STEP, 0, now, "started")


def advance(record: Record, now: float) -> Record:
    """Give the canary its next share, after a judgement that it is good."""
    if record.state is not State.STEP or record.step + 1 >= len(record.steps):
        raise TransitionError(f"{record.model} has no further step")
    if not is_good(record):
        raise TransitionError(f"{record.model} has not been judged good at this step")
    return _enter(record, State.STEP, record.step + 1, now, "the step before was good")


def lower(record: Record, now: float, reason: str) -> Record:
    """Go back a step, as far as there is one: a share that not all gateways took is given to none."""
    if record.state is State.STEP and record.step > 0:
        return _enter(record, State.STEP, record.step - 1, now, reason)
    return roll_back(record, now, reason)


def promote(record: Record, now: float, by: str) -> Record:
    """Begin to make the canary's release the stable one, host after host; its share stays, and stays guarded."""
    if record.state is State.PROMOTING:
        return record
    if not is_ready(record):
        raise TransitionError(
            f"{record.model} is {record.state.value}; it is promoted once it was judged good at its last share"
        )
    return _enter(record, State.PROMOTING, record.step, now, f"promoted by {by}")


def finish(record: Record, now: float) -> Record:
    """All hosts serve the canary's release as the stable one: there is no canary any more."""
    if record.state is State.DONE:
        return record
    if record.state is not State.PROMOTING or record.canary is None:
        raise TransitionError(f"{record.model} is {record.state.value}, not being promoted")
    return _enter(
        replace(record, stable=record.canary), State.DONE, record.step, now, "all hosts serve it"
    )


def roll_back(record: Record, now: float, reason: str) -> Record:
    """Take the canary's share away, first and everywhere. With nothing under way there is nothing to do."""
    if record.canary is None or record.state in AT_REST | {State.ROLLING_BACK}:
        return record
    refusal = Refusal(record.canary.version, record.canary.digest, now, reason[:MAX_TEXT])
    kept = [item for item in record.refused if item.digest != refusal.digest]
    return _enter(
        replace(record, refused=(*kept, refusal)[-MAX_REFUSED:]),
        State.ROLLING_BACK,
        record.step,
        now,
        reason,
    )


def rolled_back(record: Record, now: float) -> Record:
    """Every gateway has said that the canary has no share."""
    if record.state is not State.ROLLING_BACK or not record.settled:
        return record
    # the order is the same: nothing has to be said to the gateways
    return replace(record, state=State.ROLLED_BACK, entered_at=now)


def take_over(record: Record, now: float) -> Record:
    """Order the same again under a number of one's own: what another process still does is refused from now on."""
    return _enter(record, record.state, record.step, record.entered_at, record.reason)


def observe(record: Record, gateway: str, share: int) -> Record:
    """Write down what HAProxy said."""
    if gateway not in record.gateways:
        raise TransitionError(f"{gateway} has no part in the rollout of {record.model}")
    seen = Share(record.gateways[gateway].wanted, share)
    return replace(record, gateways={**record.gateways, gateway: seen})


def renew(record: Record, holder: str, now: float, seconds: int) -> Record:
    """All gateways have heard of who guards the canary."""
    return replace(record, lease=Lease(holder, now, seconds))


def decide(record: Record, decision: Decision) -> Record:
    """Write a decision down. Of holds that follow each other the last one stays: it has the numbers of those before."""
    kept = list(record.decisions)
    if kept and _is_hold_of(kept[-1], decision.state, decision.step) and decision.kind == "hold":
        kept.pop()
    return replace(record, decisions=tuple([*kept, decision][-MAX_DECISIONS:]))


def _is_hold_of(decision: Decision, state: State, step: int) -> bool:
    return (decision.kind, decision.state, decision.step) == ("hold", state, step)


def is_good(record: Record) -> bool:
    """Whether the last judgement is of this step, and says good."""
    if not record.decisions or record.state is not State.STEP or not record.settled:
        return False
    last = record.decisions[-1]
    return (last.kind, last.step) == ("good", record.step) and last.at >= record.entered_at


def is_ready(record: Record) -> bool:
    """Whether the canary may be promoted."""
    return is_good(record) and record.step == len(record.steps) - 1


def _enter(record: Record, state: State, step: int, now: float, reason: str) -> Record:
    """Order the shares of a state, and forget what gateways said to the orders before."""
    entered = replace(
        record,
        fencing=record.fencing + 1,
        state=state,
        step=step,
        entered_at=now,
        reason=reason[:MAX_TEXT],
        gateways={},
    )
    wanted = entered.share
    return replace(entered, gateways=dict.fromkeys(record.gateways, Share(wanted)))


def _words(release: Release | None) -> str:
    return f"{release.version} ({release.digest[:12]})" if release else "no release"


def _percents(steps: Sequence[int]) -> str:
    return ", ".join(f"{step / 10:g} %" for step in steps)


def _unsettled(record: Record) -> str:
    return ", ".join(
        sorted(name for name, share in record.gateways.items() if share.read_back != share.wanted)
    )
