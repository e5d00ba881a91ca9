# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gates between stages, signed by a key in a real SoftHSM token."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.gate import (
    DAY_SECONDS,
    Criteria,
    GateError,
    Passage,
    Wanted,
    before,
    check_gate,
    gate_document,
    gate_name,
    passage_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.record import (
    Decision,
    Record,
    Release,
    State,
)

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
NOW = 1_700_000_000.0
CRITERIA = Criteria(least_requests=500, least_days=5, most_errors=0.02, most_slow=0.1)
PASSAGE = Passage(
    model="deepseek-r1",
    version="1.1.0",
    digest="b" * 64,
    stage="pilot",
    since=NOW - 7 * DAY_SECONDS,
    until=NOW - DAY_SECONDS,
    requests=2000,
    errors=6,
    answers=1900,
    slow=40,
    objective_seconds=2.5,
    approver="Dr. Li, head of operations",
)
WANTED = Wanted("deepseek-r1", "1.1.0", "b" * 64, "gray", good_days=14)
PATH = "gates/deepseek-r1-bbbbbbbbbbbbbbbb-pilot.json"
Module = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Signed:
    document: bytes
    signature: bytes
    key: bytes


@pytest.fixture(scope="module")
def sign(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Signed]:
    """Signs with one of two keys of a token."""
    home = tmp_path_factory.mktemp("gate")
    (home / "tokens").mkdir()
    configuration = home / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {home}/tokens\nobjectstore.backend = file\n")
    for name in ("pin", "so-pin"):
        (home / name).write_text(f"unit-{name}-1")
        (home / name).chmod(0o400)

    def module(name: str, **arguments: Any) -> dict[str, Any]:
        imported = importlib.import_module(
            f"ansible_collections.onprem.deepseek.plugins.modules.pkcs11_{name}"
        )
        given = {"module_path": SOFTHSM, "pin_file": str(home / "pin"), **arguments}
        results: list[dict[str, Any]] = []
        with pytest.MonkeyPatch.context() as patch, patch_module_args(given):
            patch.setenv("SOFTHSM2_CONF", str(configuration))
            patch.setattr(
                "ansible.module_utils.basic.AnsibleModule._return_formatted",
                lambda _self, result: results.append(result),
            )
            with pytest.raises(SystemExit):
                imported.main()
        assert not results[0].get("failed"), results
        return results[0]

    module("token", label="release", so_pin_file=str(home / "so-pin"))
    for label in ("release-signing", "other"):
        module("key", token="release", label=label)

    def signed(document: dict[str, Any], key: str = "release-signing") -> Signed:
        text = json.dumps(document, sort_keys=True)
        made = module("signature", token="release", key=key, content=text)
        return Signed(text.encode(), made["signature"].encode(), made["public_key"].encode())

    return signed


@pytest.fixture(scope="module")
def gate(sign: Callable[..., Signed]) -> Signed:
    return sign(gate_document(PASSAGE, CRITERIA))


def refusal(gate: Signed, wanted: Wanted = WANTED, now: float = NOW) -> list[str]:
    with pytest.raises(GateError) as refused:
        check_gate(wanted, PATH, gate.document, gate.signature, gate.key, now)
    assert all(PATH in finding for finding in refused.value.findings)
    return refused.value.findings


def test_a_gate_that_was_signed_in_the_token_opens_the_next_stage(gate: Signed) -> None:
    opened = check_gate(WANTED, PATH, gate.document, gate.signature, gate.key, NOW)
    assert (opened["requests"], opened["days"], opened["errors"]) == (2000, 6.0, 6)
    assert opened["errors_interval"] == pytest.approx([0.0012, 0.0062], abs=2e-4)
    assert (opened["approver"], opened["criteria"]["least_days"]) == (PASSAGE.approver, 5)


def test_a_stage_is_not_entered_without_the_gate_of_the_one_before(gate: Signed) -> None:
    with pytest.raises(
        GateError, match=r"pilot.json is missing: pass stage pilot with deepseek-r1/1.1.0"
    ):
        check_gate(WANTED, PATH, None, gate.signature, gate.key, NOW)
    with pytest.raises(GateError, match=r"pilot.json.sig.b64 is missing"):
        check_gate(WANTED, PATH, gate.document, None, gate.key, NOW)


def test_no_stage_is_skipped(gate: Signed) -> None:
    (finding,) = refusal(gate, replace(WANTED, stage="full"))
    assert finding.endswith("stage full needs that of gray, none is skipped")


def test_a_gate_opens_for_its_own_digest_alone(gate: Signed) -> None:
    (finding,) = refusal(gate, replace(WANTED, digest="c" * 64))
    assert f"with {'c' * 64} is to be promoted: pass stage pilot with that" in finding


def test_a_gate_that_is_too_old_or_of_a_time_to_come_is_shut(gate: Signed) -> None:
    (old,) = refusal(gate, now=NOW + 14 * DAY_SECONDS)
    assert "15.0 days old, and good for 14: pass stage pilot again" in old
    (early,) = refusal(gate, now=NOW - 2 * DAY_SECONDS)
    assert "yet to come: set the clocks" in early


def test_all_that_is_wrong_with_a_gate_is_said_at_once(gate: Signed) -> None:
    wanted = replace(WANTED, stage="full", digest="c" * 64)
    assert len(refusal(gate, wanted, NOW + 99 * DAY_SECONDS)) == 3


@pytest.mark.parametrize("change", ["document", "signature"])
def test_each_changed_byte_is_found(gate: Signed, change: str) -> None:
    content = getattr(gate, change)
    for at in range(0, len(content), 7):
        wrong = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        (finding,) = refusal(replace(gate, **{change: wrong}))
        assert "was changed, or signed with another key" in finding


def test_a_gate_that_another_key_signed_is_refused(
    gate: Signed, sign: Callable[..., Signed]
) -> None:
    other = sign(json.loads(gate.document), key="other")
    (finding,) = refusal(replace(gate, signature=other.signature))
    assert "signed with another key" in finding


def test_another_signed_document_is_no_gate(sign: Callable[..., Signed]) -> None:
    (finding,) = refusal(sign({"format": "zones/v1", "stage": "pilot"}))
    assert "is signed, but is no gate" in finding


def test_what_is_too_large_is_refused_unread(gate: Signed) -> None:
    (finding,) = refusal(replace(gate, document=b" " * 70_000))
    assert "has more than 65536 bytes" in finding


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"requests": 499, "errors": 0}, "499 requests of 500"),
        ({"since": NOW - 5 * DAY_SECONDS}, "4.00 days of 5"),
        ({"errors": 40}, "40 failed of 2000"),
        ({"slow": 190}, "190 slow of 1900"),
        ({"answers": 0, "slow": 0}, "0 slow of 0"),
        ({"approver": "  "}, "no approver"),
        ({"approver": "x" * 201}, "no approver"),
        ({"errors": 2001}, "cannot be"),
        ({"digest": "b"}, "digest"),
        ({"model": "../x"}, "model"),
        ({"stage": "later"}, "they are pilot, gray, full"),
    ],
)
def test_a_release_that_has_not_passed_gets_no_gate(change: dict[str, Any], why: str) -> None:
    with pytest.raises(GateError) as refused:
        gate_document(replace(PASSAGE, **change), CRITERIA)
    assert len(refused.value.findings) == 1
    assert why in refused.value.findings[0]


def test_everything_that_is_not_passed_is_said_at_once() -> None:
    hasty = replace(PASSAGE, since=NOW - 2 * DAY_SECONDS, requests=10, errors=5, approver="")
    with pytest.raises(GateError) as refused:
        gate_document(hasty, CRITERIA)
    assert len(refused.value.findings) == 4


def test_the_first_stage_has_no_gate_before_it(gate: Signed) -> None:
    assert (before("pilot"), before("gray"), before("full")) == (None, "pilot", "gray")
    with pytest.raises(GateError, match="is the first"):
        check_gate(
            replace(WANTED, stage="pilot"), PATH, gate.document, gate.signature, gate.key, NOW
        )


def test_gates_of_two_releases_have_two_names() -> None:
    assert f"gates/{gate_name(PASSAGE.model, PASSAGE.digest, 'pilot')}" == PATH
    assert gate_name("m", "c" * 64, "pilot") != gate_name("m", "d" * 64, "pilot")


def test_a_passage_is_what_the_last_judgement_of_each_step_counted() -> None:
    def judged(at: float, step: int, requests: int, errors: int) -> Decision:
        counts = {
            "failures": {"canary_bad": errors, "canary_all": requests},
            "slow_first_tokens": {"canary_bad": 10, "canary_all": requests - 5},
        }
        return Decision(at, State.STEP, step, "hold", "", counts)

    record = Record(
        model="deepseek-r1",
        state=State.STEP,
        stable=Release("1.0.0", "a" * 64),
        canary=Release("1.1.0", "b" * 64),
        steps=(50, 250),
        step=1,
        started_at=NOW,
        decisions=(
            judged(NOW - 5, 0, 9999, 99),  # of the rollout before
            judged(NOW + 10, 0, 100, 1),
            judged(NOW + 20, 0, 700, 3),
            Decision(NOW + 30, State.STEP, 0, "promote", "an order"),
            judged(NOW + 40, 1, 800, 4),
        ),
    )
    passage = passage_of(record, "pilot", "Dr. Li", 2.5)
    assert (passage.requests, passage.errors, passage.answers, passage.slow) == (1500, 7, 1490, 20)
    assert (passage.since, passage.until) == (NOW, NOW + 40)
    assert (passage.version, passage.digest) == ("1.1.0", "b" * 64)
    with pytest.raises(GateError, match="has no canary"):
        passage_of(Record("deepseek-r1"), "pilot", "Dr. Li", 2.5)
