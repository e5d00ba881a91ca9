# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gates between stages: a document, signed in the token, that says that a release has passed a stage of a site's rollout.

A stage (pilot, gray, full) is a scope of hosts and users. The gate of one is asked for where the next begins, for the same digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from ..artifacts.names import ArtifactError, check_digest, check_name
from ..artifacts.signatures import verify_release_signature
from .judge import FAILURES, SLOW_FIRST_TOKENS
from .posterior import interval
from .record import Record

FORMAT = "https://github.com/onprem-deepseek/onprem.deepseek/gate/v1"
STAGES = ("pilot", "gray", "full")
DAY_SECONDS = 86400
MOST_BYTES = 64 * 1024
LONGEST = 200
# Clocks of two hosts differ by less.
CLOCK_SECONDS = 300


class GateError(Exception):
    """What does not open the gate: every finding, with the file or variable it is about and what to do."""

    def __init__(self, findings: list[str]) -> None:
        super().__init__("; ".join(findings))
        self.findings = findings


@dataclass(frozen=True)
class Criteria:
    """What a stage asks of a release; shares are parts of 1, compared with the upper end of a 95 % interval."""

    least_requests: int
    least_days: float
    most_errors: float
    most_slow: float


@dataclass(frozen=True)
class Passage:
    """What a release did in a stage; times are seconds since 1970.

    ``slow`` are answers whose first token came after the objective of ``objective_seconds``, of ``answers``.
    """

    model: str
    version: str
    digest: str
    stage: str
    since: float
    until: float
    requests: int
    errors: int
    answers: int
    slow: int
    objective_seconds: float
    approver: str


@dataclass(frozen=True)
class Wanted:
    """The release that is to enter a stage, and for how many days the gate of the stage before it is good."""

    model: str
    version: str
    digest: str
    stage: str
    good_days: float


def before(stage: str) -> str | None:
    """The stage that must be passed before this one; none before the first. Raises GateError for one that there is not."""
    if stage not in STAGES:
        raise GateError([f"{stage!r} is no stage: they are {', '.join(STAGES)}"])
    at = STAGES.index(stage)
    return STAGES[at - 1] if at else None


def gate_name(model: str, digest: str, stage: str) -> str:
    """Name of the file of a gate; that of its signature ends in .sig.b64 besides."""
    return f"{model}-{digest[:16]}-{stage}.json"


def gate_document(passage: Passage, criteria: Criteria) -> dict[str, Any]:
    """The document to be signed. Raises GateError, with everything that is not met, for a release that has not passed."""
    findings = _not_passed(passage, criteria)
    if findings:
        raise GateError(findings)
    return {
        "format": FORMAT,
        **asdict(passage),
        "days": (passage.until - passage.since) / DAY_SECONDS,
        "errors_interval": list(interval(passage.errors, passage.requests)),
        "slow_interval": list(interval(passage.slow, passage.answers)),
        "criteria": asdict(criteria),
    }


def passage_of(record: Record, stage: str, approver: str, objective_seconds: float) -> Passage:
    """What the canary of a record did: the last judgement of each step, added. Raises GateError for a record without a canary.

    Judgements that the record no longer has count as none, so that the numbers are never too large.
    """
    if record.canary is None:
        raise GateError(
            [f"the record of {record.model} has no canary: run a rollout in stage {stage} first"]
        )
    last = {
        one.step: one for one in record.decisions if one.measures and one.at >= record.started_at
    }

    def total(measure: str, number: str) -> int:
        return sum(int(one.measures.get(measure, {}).get(number, 0)) for one in last.values())

    return Passage(
        model=record.model,
        version=record.canary.version,
        digest=record.canary.digest,
        stage=stage,
        since=record.started_at,
        until=max((one.at for one in last.values()), default=record.started_at),
        requests=total(FAILURES, "canary_all"),
        errors=total(FAILURES, "canary_bad"),
        answers=total(SLOW_FIRST_TOKENS, "canary_all"),
        slow=total(SLOW_FIRST_TOKENS, "canary_bad"),
        objective_seconds=objective_seconds,
        approver=approver,
    )


def _not_passed(passage: Passage, criteria: Criteria) -> list[str]:
    before(passage.stage)
    for check, value, name in (
        (check_name, passage.model, "model"),
        (check_name, passage.version, "version"),
        (check_digest, passage.digest, "digest"),
    ):
        try:
            check(value, name)
        except ArtifactError as error:
            return [str(error)]
    if not (0 <= passage.errors <= passage.requests and 0 <= passage.slow <= passage.answers):
        return [f"counts of stage {passage.stage} cannot be: {passage}"]
    findings = []
    days = (passage.until - passage.since) / DAY_SECONDS
    what = f"stage {passage.stage} of {passage.model}/{passage.version}"
    if not 0 < len(passage.approver.strip()) <= LONGEST:
        findings.append(
            f"{what} has no approver: name who answers for it, in at most {LONGEST} characters"
        )
    if passage.requests < criteria.least_requests:
        findings.append(
            f"{what} has had {passage.requests} requests of {criteria.least_requests}: wait for more"
        )
    if days < criteria.least_days:
        findings.append(
            f"{what} has lasted {days:.2f} days of {criteria.least_days:g}: wait until they have passed"
        )
    for name, bad, total, most in (
        ("failed", passage.errors, passage.requests, criteria.most_errors),
        ("slow", passage.slow, passage.answers, criteria.most_slow),
    ):
        low, high = interval(bad, total)
        if high > most:
            findings.append(
                f"{what} had {bad} {name} of {total} ({low:.2%} to {high:.2%} with 95 % probability), and at most {most:.2%} are "
                "allowed: find out why, or wait for more requests"
            )
    return findings


def check_gate(
    wanted: Wanted,
    path: str,
    document: bytes | None,
    signature: bytes | None,
    key: bytes,
    now: float,
) -> dict[str, Any]:
    """The gate of the stage before, if it is open for this release; else GateError.

    ``path`` is that of the gate, for people; ``document`` and ``signature`` are None where there is no such file. Nothing in the
    document is looked at before its signature is verified with ``key``, the site's release public key in PEM.
    """
    stage = before(wanted.stage)
    if stage is None:
        raise GateError([f"stage {wanted.stage} is the first, and has no gate before it"])
    passed = f"pass stage {stage} with {wanted.model}/{wanted.version} first, which writes it"
    signed = _content(path, document, passed)
    try:
        verify_release_signature(key, signed, _content(f"{path}.sig.b64", signature, passed))
    except ArtifactError as error:
        finding = (
            f"{path} was changed, or signed with another key ({error}): take the file as it was written, "
            f"or pass stage {stage} again"
        )
        raise GateError([finding]) from error
    gate = _read(path, signed)
    findings = _not_this(wanted, stage, path, gate, now)
    if findings:
        raise GateError(findings)
    return gate


def _content(name: str, content: bytes | None, passed: str) -> bytes:
    if content is None:
        raise GateError([f"{name} is missing: {passed}"])
    if len(content) > MOST_BYTES:
        raise GateError([f"{name} has more than {MOST_BYTES} bytes, so it is no gate: {passed}"])
    return content


def _read(path: str, document: bytes) -> dict[str, Any]:
    gate = json.loads(document)
    if not isinstance(gate, dict) or gate.get("format") != FORMAT:
        raise GateError(
            [f"{path} is signed, but is no gate: look for {gate_name('MODEL', 'DIGEST', 'STAGE')}"]
        )
    return gate


def _not_this(
    wanted: Wanted, stage: str, path: str, gate: Mapping[str, Any], now: float
) -> list[str]:
    findings = []
    if gate["stage"] != stage:
        findings.append(
            f"{path} is the gate of stage {gate['stage']}: stage {wanted.stage} needs that of {stage}, none is skipped"
        )
    if (gate["model"], gate["digest"]) != (wanted.model, wanted.digest):
        findings.append(
            f"{path} is of {gate['model']}/{gate['version']} with digest {gate['digest']}, and {wanted.model}/{wanted.version} with "
            f"{wanted.digest} is to be promoted: pass stage {stage} with that"
        )
    age = (now - gate["until"]) / DAY_SECONDS
    if age > wanted.good_days:
        findings.append(
            f"{path} is of {_time(gate['until'])}, {age:.1f} days old, and good for {wanted.good_days:g}: pass stage {stage} again"
        )
    if gate["until"] > now + CLOCK_SECONDS:
        findings.append(
            f"{path} is of {_time(gate['until'])}, which is yet to come: set the clocks of the controller and of the release host"
        )
    return findings


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
