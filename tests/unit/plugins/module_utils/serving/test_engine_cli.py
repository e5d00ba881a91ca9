# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module asks deepseek-engine, and what it makes of the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.serving.engine_cli import (
    EngineError,
    ask,
    build_command,
    builder_flags,
    info_command,
    progress_path,
    result_of,
)

DEFAULTS: dict[str, Any] = {
    "onnx": "/srv/graph/decoder.onnx",
    "dest": "/var/lib/engines/model",
    "venv": "/opt/serving",
    "flavour": "auto",
    "compute_capability": None,
    "hardware_compatible": False,
    "slots": None,
    "prefill_chunk": 128,
    "profiles": None,
    "workspace_mib": None,
    "optimization_level": None,
    "timing_cache": None,
    "weight_streaming": False,
    "strip": False,
    "refit": False,
    "flags": [],
    "regenerate": "if_changed",
    "force_hash": False,
}


def command(check: bool = False, profiles: str | None = None, **changes: Any) -> list[str]:
    return build_command({**DEFAULTS, **changes}, check, profiles)


def test_the_command_names_what_was_asked_for_and_nothing_else() -> None:
    assert command() == [
        "/opt/serving/bin/deepseek-engine",
        "build",
        "/srv/graph/decoder.onnx",
        "/var/lib/engines/model",
        "--flavour",
        "auto",
        "--prefill-chunk",
        "128",
        "--regenerate",
        "if_changed",
        "--progress",
        "/var/lib/engines/.model.progress",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"compute_capability": "8.0"}, ["--compute-capability", "8.0"]),
        ({"slots": 8}, ["--slots", "8"]),
        ({"optimization_level": 0}, ["--optimization-level", "0"]),
        ({"timing_cache": "/var/cache/t"}, ["--timing-cache", "/var/cache/t"]),
        ({"workspace_mib": 4}, ["--workspace-bytes", "4194304"]),
        ({"strip": True}, ["--flag", "STRIP_PLAN"]),
        ({"flags": ["TF32"], "refit": True}, ["--flag", "REFIT", "--flag", "TF32"]),
        ({"hardware_compatible": True}, ["--hardware-compatible"]),
        ({"force_hash": True}, ["--force-hash"]),
        ({"check": True}, ["--check"]),
        ({"profiles": "/srv/p.json"}, ["--profiles", "/srv/p.json"]),
    ],
)
def test_each_option_reaches_the_program(changes: dict[str, Any], expected: list[str]) -> None:
    added = [part for part in command(**changes) if part not in command()]
    assert added == [part for part in expected if part not in command()]
    text = " ".join(command(**changes))
    assert " ".join(expected) in text


def test_flags_are_named_once_whatever_the_option_they_came_by() -> None:
    assert builder_flags({**DEFAULTS, "strip": True, "flags": ["STRIP_PLAN"]}) == ["STRIP_PLAN"]


def test_info_may_ask_for_the_host_alone() -> None:
    assert info_command({"venv": "/v", "dest": None}) == ["/v/bin/deepseek-engine", "info"]
    assert info_command({"venv": "/v", "dest": "/d"})[-1] == "/d"


def test_progress_lies_beside_the_engine() -> None:
    assert progress_path("/var/lib/engines/m") == "/var/lib/engines/.m.progress"


def test_a_missing_program_names_the_role_that_installs_it() -> None:
    with pytest.raises(EngineError, match=r"Run role onprem\.deepseek\.serving_environment"):
        ask(["/nowhere/deepseek-engine"], lambda _command: (0, "", ""))


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        ((1, "", "deepseek-engine: 10%\ndeepseek-engine: no GPU\n"), r"^no GPU$"),
        ((1, "", "Traceback\nKeyError: 'x'\n"), "KeyError"),
        ((137, "", ""), "ended with status 137"),
        ((0, "nothing", ""), "gave no JSON"),
        ((0, "[]", ""), "no JSON object"),
    ],
)
def test_a_failure_is_told_in_the_programs_own_words(
    outcome: tuple[int, str, str], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        ask(["/bin/true"], lambda _command: outcome)


def test_the_diff_shows_the_fields_that_a_build_changes() -> None:
    before, after = {"cuda_major": 12}, {"cuda_major": 13}
    answer = {
        "changed": True,
        "rebuild_reason": "cuda_major was 12, is 13",
        "key": "k",
        "driver": None,
        "driver_changed": False,
        "build": {},
        "before": before,
        "after": after,
    }
    parsed = ask(["/bin/true"], lambda _command: (0, json.dumps(answer), ""))
    result = result_of(parsed)
    assert json.loads(result["diff"]["before"]) == before
    assert json.loads(result["diff"]["after"]) == after
    kept = result_of({**answer, "changed": False})
    assert kept["diff"]["before"] == kept["diff"]["after"]
    assert result_of({**answer, "before": {}})["diff"]["before"] == ""
