# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Preflight says where the list of releases and the record of a rollout disagree."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.onprem.deepseek.plugins.filter.preflight_report import preflight_report
from ansible_collections.onprem.deepseek.plugins.filter.rollout_problems import rollout_problems
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.record import (
    Record,
    Release,
    State,
    to_json,
)

RECORD = Record(
    "chat",
    stable=Release("1", "a" * 64),
    canary=Release("2", "b" * 64),
    steps=(50,),
    reason="failures: too many",
)
UNDER_WAY = "chat/2 is {} on the release host, and is no canary here"
BACK = "the release was rolled back: failures: too many"
DONE = "the release was promoted, and serves all requests"
TRIED = {"stable": "1", "canary": "2"}
OTHER = {"stable": "1", "canary": "3"}


def listed(stable: str, canary: str = "") -> list[dict[str, object]]:
    entries = [("chat", stable, False), ("chat", canary, True), ("code", "2", True)]
    return [
        {"model": model, "version": version, "is_canary": is_canary}
        for model, version, is_canary in entries
        if version
    ]


@pytest.mark.parametrize(
    ("state", "versions", "says"),
    [
        ("idle", TRIED, ""),
        ("step", TRIED, ""),
        ("promoting", TRIED, ""),
        ("promoting", {"stable": "2"}, ""),
        ("done", {"stable": "2"}, ""),
        ("done", {"stable": "2", "canary": "3"}, ""),
        ("rolled_back", {"stable": "1"}, ""),
        ("rolled_back", OTHER, ""),
        ("prepared", {"stable": "1"}, UNDER_WAY.format("prepared")),
        ("step", OTHER, UNDER_WAY.format("step")),
        ("step", {"stable": "2"}, UNDER_WAY.format("step")),
        ("promoting", {"stable": "1"}, UNDER_WAY.format("promoting")),
        ("rolling_back", TRIED, BACK),
        ("rolled_back", TRIED, BACK),
        ("done", TRIED, DONE),
    ],
)
def test_what_does_not_agree_is_found(state: str, versions: dict[str, str], says: str) -> None:
    text = to_json(replace(RECORD, state=State(state))).decode()
    found = rollout_problems([text], listed(**versions))
    assert [one["what"] for one in found] == ([says] if says else [])
    assert all("release_" in one["remedy"] or "entry" in one["remedy"] for one in found)
    retried = rollout_problems([text], listed(**versions), retry=True)
    assert len(retried) == (0 if says == BACK else len(found))


def test_a_model_without_a_canary_and_a_record_that_cannot_be_read() -> None:
    found = rollout_problems([to_json(Record("chat")).decode(), "{"], listed("1", "2"))
    assert [one["what"].partition(":")[0] for one in found] == ["a record cannot be read"]


def test_the_report_of_preflight_has_it() -> None:
    text = to_json(replace(RECORD, state=State.ROLLED_BACK)).decode()
    hosts = [{"name": "r1", "rollouts": rollout_problems([text], listed(**TRIED))}, {"name": "g1"}]
    rows = [one for one in preflight_report(hosts, {})["checks"] if one["name"] == "rollouts"]
    (row,) = rows
    assert (row["host"], row["status"]) == ("deepseek_releases, chat/2, share", "failed")
    assert "-e canary_retry=true" in row["remedy"]
    hosts[0]["rollouts"] = []
    rows = [one for one in preflight_report(hosts, {})["checks"] if one["name"] == "rollouts"]
    assert [one["status"] for one in rows] == ["ok"]
