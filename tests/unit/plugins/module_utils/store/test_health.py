# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a storage host, and which copies are missing."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.filter.missing_copies import (
    FilterModule as Missing,
)
from ansible_collections.onprem.deepseek.plugins.filter.storage_findings import (
    FilterModule as Findings,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.placement import holders

findings = Findings().filters()["storage_findings"]
missing = Missing().filters()["missing_copies"]
RELEASE = {"model": "m", "version": "1.0.0", "sha256": "d1", "problems": []}


def said(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        "answer": {"status": 200},
        "store": {"releases": [RELEASE]},
        "space": {"stdout_lines": ["Use%", " 90%"]},
        "certificate": {"rc": 0},
        "care": {"rc": 1},
        **changes,
    }


def judged(**changes: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = findings(said(**changes), "st-1", "/store", "90", 24)
    return found


def test_a_sound_host_has_its_releases_and_no_problem() -> None:
    assert judged() == {"releases": {"m/1.0.0": "d1"}, "problems": []}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": {"status": -1, "msg": "refused"}}, "nginx does not answer (refused). Look"),
        ({"answer": {"msg": "no route"}}, "nginx does not answer (no route)"),
        ({"store": {"msg": "no directory"}}, "the store cannot be read: no directory"),
        ({"space": {"stdout_lines": ["Use%", " 91%"]}}, "/store is 91 percent full, more than 90"),
        ({"space": {"stdout_lines": []}}, "/store is 100 percent full"),
        ({"space": {"msg": "no df"}}, "/store is 100 percent full"),
        (
            {"certificate": {"rc": 1}},
            "its certificate ends within 24 hours. Run onprem.deepseek.tls_",
        ),
        ({"certificate": {"msg": "no openssl"}}, "its certificate ends within 24 hours"),
        ({"care": {"rc": 0}}, "sync or scrub has failed. Look at"),
    ],
)
def test_each_fault_is_said_with_its_host(change: dict[str, Any], says: str) -> None:
    (only,) = judged(**change)["problems"]
    assert only.startswith(f"st-1: {says}")


def test_a_store_that_something_else_keeps_has_no_timers() -> None:
    assert judged(care={"skipped": True})["problems"] == []


def test_a_release_with_a_problem_is_no_copy() -> None:
    wrong = {**RELEASE, "version": "1.1.0", "problems": ["m/1.1.0: graph.onnx is missing"]}
    found = judged(store={"releases": [RELEASE, wrong]})
    assert found["releases"] == {"m/1.0.0": "d1"}
    assert found["problems"] == ["st-1: m/1.1.0: graph.onnx is missing"]


def test_a_copy_is_missing_where_one_is_to_be() -> None:
    storage = ["a", "b", "c", "d"]
    first, second, third = holders("m/1", storage)
    held = {first: {"m/1": "x"}, second: {"m/1": "x"}}
    assert missing(storage, held, storage) == [
        f"{third}: it has no whole copy of m/1. It pulls it by itself when the others answer."
    ]
    assert missing(storage, {**held, third: {"m/1": "x"}}, storage) == []
    # a host that is not judged, and a site without releases
    assert missing(storage, held, [first, second]) == []
    assert missing(storage, {}, storage) == []
