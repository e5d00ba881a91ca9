# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The workers of a host: what is filled in, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.workers import (
    problems,
    processors,
    workers,
)

GPU = "GPU-5a3e1c9a-6d0f-4f0e-8a70-1d9b6b0d3c11"
OTHER = "GPU-5a3e1c9a-6d0f-4f0e-8a70-1d9b6b0d3c12"


@pytest.mark.parametrize("listed", [None, ""])
def test_a_host_that_says_nothing_has_one_worker_with_all_of_it(listed: Any) -> None:
    assert workers(listed, 8000) == [
        {"name": "main", "port": 8000, "gpus": (), "cpus": "", "memory_max": "80%"}
    ]


def test_an_empty_list_has_none() -> None:
    assert workers([], 8000) == []


def test_each_gets_a_port_and_a_share_of_the_memory() -> None:
    listed = [
        {"name": "a", "gpus": GPU},
        {"name": "b", "gpus": [OTHER], "memory_max": "96G"},
        {"name": "c", "gpus": ["MIG-5a3e1c9a-6d0f-4f0e-8a70-1d9b6b0d3c13"], "port": 9000},
    ]
    got = workers(listed, 8000)
    assert [worker["port"] for worker in got] == [8000, 8001, 9000]
    assert [worker["memory_max"] for worker in got] == ["26%", "96G", "26%"]
    assert got[0]["gpus"] == (GPU,)


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [("3", {3}), ("0-3", {0, 1, 2, 3}), ("0-1,4", {0, 1, 4}), ("0-1 4", {0, 1, 4})],
)
def test_processors(cpus: str, expected: set[int]) -> None:
    assert processors(cpus) == expected


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("a", "it is 'a', and must be a list of mappings"),
        ({"name": "a"}, "and must be a list of mappings"),
        (["a"], "worker 1: it is 'a', and must be a mapping"),
        ([{}], "worker 1: its name is None"),
        ([{"name": "A"}], "worker 1: its name is 'A'"),
        ([{"name": "../a"}], "worker 1: its name is '../a'"),
        ([{"name": "a-"}], "worker 1: its name is 'a-'"),
        ([{"name": "a", "gpu": GPU}], "worker 1: it has the key 'gpu'; there are name, port, gpus"),
        ([{"name": "a", "gpus": "0"}], "worker 1: its GPU is '0'; write the UUID"),
        ([{"name": "a", "port": 443}], "worker 1: its port is 443"),
        ([{"name": "a", "port": True}], "worker 1: its port is True"),
        ([{"name": "a", "cpus": "0-"}], "worker 1: its cpus are '0-': '0-' is no processor"),
        ([{"name": "a", "cpus": "3-1"}], "the range 3-1 ends before it begins"),
        ([{"name": "a", "memory_max": "much"}], "worker 1: its memory_max is 'much'"),
        ([{"name": "a"}, {"name": "a"}], "workers a, a share the name a"),
        ([{"name": "a"}, {"name": "b", "port": 8000}], "workers a, b share port 8000"),
        ([{"name": "a", "gpus": GPU}, {"name": "b", "gpus": GPU}], f"workers a, b share GPU {GPU}"),
        (
            [{"name": "a", "cpus": "0-3"}, {"name": "b", "cpus": "3"}],
            "workers a, b share processor 3",
        ),
        ([{"name": "a", "gpus": GPU}, {"name": "b"}], "workers b have no gpus, and others do"),
    ],
)
def test_what_is_refused(listed: Any, says: str) -> None:
    (only,) = problems(listed, 8000)
    assert says in only
    with pytest.raises(ValueError, match=r"worker|must be"):
        workers(listed, 8000)


def test_processors_must_be_there() -> None:
    listed = [{"name": "a", "cpus": "0-1"}, {"name": "b", "cpus": "2,8"}]
    (only,) = problems(listed, 8000, online="0-3")
    assert only == "worker b: its cpus are 2,8, and the host has 0-3"
    assert problems(listed, 8000, online="0-8") == []


def test_everything_is_found_at_once() -> None:
    assert len(problems([{"name": "A", "gpus": "0", "cpus": "x"}, 3], 8000)) == 4


def test_ports_end_somewhere() -> None:
    (only,) = problems([{"name": "a"}, {"name": "b"}], 65535)
    assert only == "worker b: its port would be 65536; the last is 65535"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: (
        st.lists(children)
        | st.dictionaries(
            st.sampled_from(["name", "port", "gpus", "cpus", "memory_max"]) | st.text(), children
        )
    ),
)


@given(listed=anything)
def test_whatever_is_written_is_answered(listed: Any) -> None:
    if problems(listed, 8000):
        return
    got = workers(listed, 8000)
    expected = 1 if listed in (None, "") else len(listed)
    assert len({worker["port"] for worker in got}) == len(got) == expected
