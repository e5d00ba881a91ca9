"""The threads of an engine follow the processors that the process was given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepseek_serving.runtime.cores import cores


def _machine(folder: Path, siblings: dict[int, str]) -> Path:
    for cpu, text in siblings.items():
        topology = folder / f"cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{text}\n", encoding="ascii")
    return folder


@pytest.mark.parametrize(
    ("given", "expected"), [({0}, 1), ({0, 4}, 1), ({0, 1, 4, 5}, 2), ({0, 1, 2, 3}, 4)]
)
def test_threads_of_one_core_count_once(
    given: set[int], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: given)
    assert cores(_machine(tmp_path, pairs)) == expected


def test_without_a_topology_every_processor_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert cores(tmp_path) == 3


def test_a_process_that_was_given_one_processor_has_one_core() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
