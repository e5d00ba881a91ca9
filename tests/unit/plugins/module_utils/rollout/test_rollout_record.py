# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a rollout: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.record import (
    AT_REST,
    EXPOSED,
    MAX_BYTES,
    Decision,
    Lease,
    Record,
    RecordError,
    Refusal,
    Release,
    Share,
    State,
    check_model,
    from_json,
    to_json,
)

STABLE = Release("1.0.0", "a" * 64)
CANARY = Release("1.1.0", "b" * 64)
STEP = Record(
    model="chat",
    fencing=7,
    state=State.STEP,
    stable=STABLE,
    canary=CANARY,
    steps=(50, 250, 500),
    step=1,
    entered_at=5.5,
    gateways={"gateway-1": Share(250, 250), "gateway-2": Share(250)},
    lease=Lease("release-1", 12.5, 120),
    decisions=(
        Decision(
            9.0, State.STEP, 0, "good", "300 requests", {"failures": {"q": 0.01}}, {"bad": 0.99}
        ),
    ),
    refused=(Refusal("0.9.0", "c" * 64, 1.0, "failures"),),
    started_by="ops",
    started_at=1.5,
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
moments = st.floats(0, 4e9)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
releases = st.builds(Release, names, digests)
numbers = st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=3)
decisions = st.builds(
    Decision,
    moments,
    st.sampled_from(State),
    st.integers(0, 5),
    texts,
    texts,
    st.dictionaries(texts, numbers, max_size=2),
    numbers,
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    steps = tuple(sorted(draw(st.sets(st.integers(1, 500), min_size=1, max_size=4))))
    bare = Record(
        model=draw(names),
        fencing=draw(st.integers(0, 2**63)),
        state=draw(st.sampled_from(State)),
        stable=draw(releases),
        canary=draw(releases),
        steps=steps,
        step=draw(st.integers(0, len(steps) - 1)),
        entered_at=draw(moments),
        lease=draw(st.none() | st.builds(Lease, texts, moments, st.integers(1, 9999))),
        decisions=tuple(draw(st.lists(decisions, max_size=2))),
        refused=tuple(
            draw(st.lists(st.builds(Refusal, names, digests, moments, texts), max_size=2))
        ),
        started_by=draw(texts),
        started_at=draw(moments),
        reason=draw(texts),
    )
    shares = st.builds(Share, st.integers(0, bare.share), st.none() | st.integers(0, 1000))
    return replace(bare, gateways=draw(st.dictionaries(texts, shares, max_size=3)))


@given(records())
def test_what_is_written_is_read_again(record: Record) -> None:
    assert from_json(to_json(record)) == record


documents = st.recursive(
    st.none() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)


@given(st.binary(max_size=200) | documents.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(RecordError):
        from_json(data)


def changed(path: str, value: Any) -> bytes:
    document: Any = json.loads(to_json(STEP))
    *parents, last = path.split("/")
    place = document
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("format", 2, r"\$.format is 2; this version reads 1"),
        ("extra", 1, r"\$.extra is unknown"),
        ("model", "../etc", "is not usable"),
        ("fencing", -1, r"\$.fencing must be between 0"),
        ("fencing", True, r"\$.fencing must be a number"),
        ("fencing", 1.5, r"\$.fencing must be a number"),
        ("state", "paused", r"\$.state must be one of idle, prepared"),
        ("canary", None, "without a stable or a canary release"),
        ("canary/digest", "B" * 64, r"\$.canary.digest 'B+' is not a SHA-256"),
        ("canary/version", "1/2", r"\$.canary.version '1/2' is not usable"),
        ("steps", [50, 50], r"\$.steps must rise"),
        ("steps", [0, 50], r"\$.steps\[0\] must be between 1 and 500"),
        ("steps", [50, 501], r"\$.steps\[1\] must be between 1 and 500"),
        ("steps", list(range(1, 30)), r"\$.steps must be a list of at most 20"),
        ("step", 3, r"\$.step is 3 of 3 steps"),
        ("entered_at", float("nan"), r"\$.entered_at must be between"),
        ("entered_at", float("inf"), r"\$.entered_at must be between"),
        ("gateways/gateway-1/wanted", 251, "wants more for gateway-1 than the state gives: 250"),
        ("gateways/gateway-1/read_back", 1001, r"\$.gateways.gateway-1.read_back must be between"),
        ("gateways/gateway-1/other", 1, r"\$.gateways.gateway-1.other is unknown"),
        ("gateways", {str(n): {} for n in range(65)}, "an object of at most 64 members"),
        ("lease/seconds", 0, r"\$.lease.seconds must be between 1"),
        ("decisions/0/reason", "x" * 2001, "a text of at most 2000 characters"),
        ("decisions/0/thresholds", [], r"\$.decisions\[0\].thresholds must be an object"),
        ("refused/0/at", "now", r"\$.refused\[0\].at must be a number"),
        ("reason", 1, r"\$.reason must be a text"),
    ],
)
def test_what_no_record_can_say_is_refused_by_its_path(path: str, value: Any, problem: str) -> None:
    with pytest.raises(RecordError, match=problem):
        from_json(changed(path, value))


def test_a_document_that_is_too_large_is_not_parsed() -> None:
    with pytest.raises(RecordError, match="more than"):
        from_json(b" " * (MAX_BYTES + 1))


def test_a_document_that_is_too_deep_is_refused() -> None:
    with pytest.raises(RecordError, match="is no JSON"):
        from_json(b"[" * 100_000)


def test_a_record_that_could_not_be_read_is_not_written() -> None:
    with pytest.raises(RecordError, match="wants more"):
        to_json(replace(STEP, state=State.ROLLING_BACK))


@pytest.mark.parametrize("state", State)
def test_the_canary_has_a_share_only_in_a_step_and_while_it_is_promoted(state: State) -> None:
    record = replace(STEP, state=state, gateways={})
    assert record.share == (250 if state in {State.STEP, State.PROMOTING} else 0)
    assert (state in EXPOSED) == (record.share > 0)
    assert not (EXPOSED & AT_REST)


def test_a_record_is_settled_when_every_gateway_said_what_it_is_to_have() -> None:
    assert not STEP.settled
    both = {"gateway-1": Share(250, 250), "gateway-2": Share(250, 250)}
    assert replace(STEP, gateways=both).settled
    assert not replace(STEP, gateways={**both, "gateway-2": Share(250, 50)}).settled


def test_a_release_that_was_rolled_back_is_known_by_its_digest() -> None:
    assert STEP.is_refused("c" * 64)
    assert not STEP.is_refused(CANARY.digest)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "é", "a" * 129, "a\n"])
def test_a_model_whose_name_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(RecordError):
        check_model(name)
