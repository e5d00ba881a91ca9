# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The list of releases: what it becomes with everything filled in, and what is refused of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.filter.releases import releases as as_filter
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import release_findings
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.releases import (
    KEYS,
    SCALARS,
    engines,
    of_host,
    releases,
    usable,
    with_releases,
)

HOSTS = ["inference-1", "inference-2", "inference-3"]
WORKERS = {
    "inference-1": [{"name": "a"}, {"name": "b"}],
    "inference-2": None,
    "inference-3": [{"name": "a"}, {"name": "b"}],
}
ALL = ["inference-1:a", "inference-1:b", "inference-2:main", "inference-3:a", "inference-3:b"]
ALONE = {
    "deepseek_model_name": "r1",
    "deepseek_model_version": "1.0.0",
    "deepseek_checkpoint": "/srv/import/r1",
}


def entry(model: str = "r1", version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    return {"model": model, "version": version, "checkpoint": f"/srv/import/{model}", **more}


# A canary beside its model, which falls back to another one.
STABLE = entry(workers=["inference-1:a", "inference-2:main"], aliases=["think"], fallback="chat")
CANARY = entry(version="1.1.0", workers=["inference-1:b"], share=[5, 25, 33])
CHAT = entry("chat", "3", hosts=["inference-3"])
SOUND = [STABLE, CANARY, CHAT]


def site(listed: Any = None, **more: Any) -> dict[str, dict[str, Any]]:
    """The variables of each host of a site with this list."""
    said = {**({} if listed is None else {"deepseek_releases": listed}), **more}
    return {host: {**said, "deepseek_workers": WORKERS[host]} for host in HOSTS}


def found(listed: Any, **more: Any) -> list[str]:
    """All that is wrong with a list."""
    told = site(listed, **more)
    problems = [
        *release_findings.list_problems(told["inference-1"]),
        *release_findings.placement_problems(HOSTS, told),
    ]
    return [str(one) for one in problems]


def test_the_variables_of_a_single_release_are_a_list_of_one() -> None:
    (only,) = releases(HOSTS, site(**ALONE))
    assert only == {
        "model": "r1",
        "version": "1.0.0",
        "label": "r1/1.0.0",
        "checkpoint": "/srv/import/r1",
        "precisions": [],
        "export": True,
        "source": "",
        "license": "",
        "precision": "fp32",
        "engine": "none",
        "hosts": HOSTS,
        "workers": ALL,
        "otherwise": [],
        "is_canary": False,
        "steps": [],
        "aliases": [],
        "fallback": "",
        "golden": [],
    }
    served = {
        "deepseek_precisions": [{"name": "int8"}],
        "deepseek_precision": "int8",
        "deepseek_engine_flavour": "onnxruntime",
        "deepseek_export": True,
    }
    (same,) = releases(
        HOSTS,
        site(
            [
                entry(
                    precisions=[{"name": "int8"}],
                    precision="int8",
                    engine="onnxruntime",
                    export=True,
                )
            ]
        ),
    )
    assert releases(HOSTS, site(**ALONE, **served)) == [same]


def test_a_host_may_serve_a_single_release_in_its_own_way() -> None:
    told = site(**ALONE, deepseek_precision="fp16", deepseek_engine_flavour="onnxruntime_cuda")
    told["inference-2"]["deepseek_precision"] = "bf16"
    for name in ("deepseek_precision", "deepseek_engine_flavour"):
        del told["inference-3"][name]
    for every in (releases(HOSTS, told), usable(HOSTS, told)):
        served = {
            host: [(one["precision"], one["engine"]) for one in of_host(host, every)]
            for host in HOSTS
        }
        assert served == {
            "inference-1": [("fp16", "onnxruntime_cuda")],
            "inference-2": [("bf16", "onnxruntime_cuda")],
            "inference-3": [("fp32", "none")],
        }
        (worker,) = with_releases([{"name": "main"}], "inference-2", every, {"engine": "tensorrt"})
        assert (worker["release"]["precision"], worker["release"]["engine"]) == ("bf16", "tensorrt")


def test_a_list_says_how_all_hosts_serve() -> None:
    told = site([entry(precision="int8", engine="onnxruntime")])
    told["inference-2"]["deepseek_engine_flavour"] = "tensorrt"
    every = releases(HOSTS, told)
    assert {one["engine"] for host in HOSTS for one in of_host(host, every)} == {"onnxruntime"}


def test_releases_have_their_workers_in_the_order_of_the_inventory() -> None:
    stable, canary, chat = releases(HOSTS, site(SOUND))
    assert (stable["workers"], stable["hosts"]) == (["inference-1:a", "inference-2:main"], [])
    assert (stable["aliases"], stable["fallback"], stable["is_canary"]) == (
        ["think"],
        "chat",
        False,
    )
    assert (canary["workers"], canary["steps"], canary["is_canary"]) == (
        ["inference-1:b"],
        [5, 25, 33],
        True,
    )
    assert (chat["workers"], chat["hosts"]) == (
        ["inference-3:a", "inference-3:b"],
        ["inference-3"],
    )
    turned = entry(workers=list(reversed(ALL)))
    assert releases(HOSTS, site([turned]))[0]["workers"] == ALL
    assert releases(HOSTS, site([{**CANARY, "share": 5}]))[0]["steps"] == [5]


def test_a_worker_gets_its_release() -> None:
    every = releases(HOSTS, site(SOUND))
    ports = [{"name": "a", "port": 8000}, {"name": "b", "port": 8001}, {"name": "c", "port": 8002}]
    got = with_releases(ports, "inference-1", every)
    assert [(one["name"], one["port"], one["release"]["label"]) for one in got] == [
        ("a", 8000, "r1/1.0.0"),
        ("b", 8001, "r1/1.1.0"),
    ], "c has none"
    other = with_releases(ports, "inference-1", every, {"precision": "int8", "engine": ""})
    assert [one["release"]["precision"] for one in other] == ["int8", "int8"]
    assert {one["release"]["engine"] for one in other} == {"none"}
    assert [one["label"] for one in of_host("inference-1", every)] == ["r1/1.0.0", "r1/1.1.0"]
    assert [one["label"] for one in of_host("inference-3", every)] == ["chat/3"]
    whole = with_releases(ports, "inference-3", every)
    assert [one["release"]["label"] for one in whole] == ["chat/3"] * 3, "of all its workers"


def test_an_environment_has_the_engine_of_its_host() -> None:
    told = site([{**CHAT, "engine": "onnxruntime_cuda"}, entry(hosts=HOSTS[:2])])
    assert engines("inference-3", told["inference-3"]) == ["onnxruntime_cuda"]
    assert engines("inference-1", told["inference-1"]) == ["none"]
    assert engines("storage-1", {**told["inference-1"], "deepseek_workers": []}) == []


def test_a_sound_list_has_no_problems() -> None:
    assert found(SOUND) == []
    assert found([entry()]) == []
    assert found(None, **ALONE) == []


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ([], "deepseek_releases: it is empty"),
        (
            [entry(chekpoint="/srv")],
            "r1/1.0.0, chekpoint: there is no such key. Did you mean checkpoint.",
        ),
        ([{"model": "r1", "version": "1"}], "deepseek_releases, r1/1, checkpoint: it is missing"),
        ([entry(version=1.0)], "deepseek_releases, r1/1.0, version: it is 1.0. It must be letters"),
        ([entry(model="../etc")], "it is '../etc'. It must be letters"),
        ([entry(checkpoint="srv/x")], "it is 'srv/x'. It must be an absolute path"),
        ([entry(precision="int3")], "precision: it is 'int3'. It must be one of fp32, fp16"),
        ([entry(precision="int8")], "precision: it is 'int8', which precisions does not list"),
        (
            [entry(engine="tensorrt")],
            "engine: it is 'tensorrt', and precision is 'fp32', from which no engine",
        ),
        (
            [entry(engine="onnxruntime_cuda")],
            "engine: it is 'onnxruntime_cuda', and precision is 'fp32'",
        ),
        (
            [entry(export=False, precisions=[{"name": "int8"}])],
            "which needs a graph, and export is false",
        ),
        (
            [entry(hosts="inference-1")],
            "hosts: it is 'inference-1'. It must be a list of inference hosts",
        ),
        ([entry(aliases=["a b"])], "aliases: it is ['a b']. It must be a list of up to 64 names"),
        (
            [entry(hosts=HOSTS, workers=["inference-1:a"])],
            "workers: there are hosts, too. Name hosts or workers",
        ),
        (
            [STABLE, CANARY, {**CHAT, "hosts": ["inference-4"]}],
            "chat/3, hosts: inference-4 is no host of the group inference",
        ),
        (
            [STABLE, {**CANARY, "workers": ["inference-1:c"]}, CHAT],
            "workers: inference-1:c is no worker of the group inference",
        ),
        (
            [STABLE, CANARY, {**CHAT, "workers": ["main"], "hosts": None}],
            "workers: main is no worker",
        ),
        (
            [STABLE, {**CANARY, "workers": ["inference-1:b", "inference-3:a"]}, CHAT],
            "inference-3:a: it is to serve r1/1.1.0 and chat/3",
        ),
        (
            [STABLE, {**CANARY, "workers": ["inference-1:b"] * 2}, CHAT],
            "inference-1:b: it is to serve r1/1.1.0 and r1/1.1.0",
        ),
        (
            [STABLE, CANARY, {**CHAT, "hosts": None, "workers": ["inference-3:b"]}],
            "inference-3:a: it has no release",
        ),
        ([STABLE, CANARY, {**CHAT, "hosts": None}], "chat/3: it names neither hosts nor workers"),
        (
            [{**STABLE, "workers": ["inference-2:main"]}, {**CANARY, "share": 51}, CHAT],
            "share: it is 51. It must be a number of percent",
        ),
        (
            [STABLE, {**CANARY, "share": [25, 5]}, CHAT],
            "share: it is [25, 5]. It must be a number of percent from 1 to 50, or a rising list",
        ),
        ([STABLE, {**CANARY, "share": True}, CHAT], "share: it is True. It must be"),
        (
            [STABLE, {**CANARY, "golden": [{"prompt": "6 times 7?", "answer": "42"}]}, CHAT],
            "golden: it is [{'prompt': '6 times 7?', 'answer': '42'}]. It must be a list",
        ),
        (
            [STABLE, {**CANARY, "golden": [{"prompt": "6 times 7?", "says": ""}]}, CHAT],
            "It must be a list of up to 64",
        ),
        (
            [STABLE, {**CANARY, "share": [5, 50]}, CHAT],
            "it is 50 percent, and the canary has 1 of the model's 3 workers. Leave it at 33",
        ),
        (
            [
                {**STABLE, "workers": ["inference-2:main"]},
                CANARY,
                {**CANARY, "version": "1.2", "workers": ["inference-1:a"], "share": 5},
                CHAT,
            ],
            "r1: r1/1.1.0, r1/1.2 have a share",
        ),
        (
            [{**STABLE, "share": 5, "aliases": None, "fallback": None}, CHAT, CANARY],
            "r1: no entry has no share",
        ),
        ([STABLE, {**CANARY, "share": None}, CHAT], "r1: r1/1.0.0 and r1/1.1.0 have no share"),
        ([STABLE, {**CANARY, "version": "1.0.0"}, CHAT], "r1: r1/1.0.0 is there twice"),
        ([STABLE, {**CANARY, "aliases": ["x"]}, CHAT], "aliases: the entry has a share. Move it"),
        (
            [STABLE, CANARY, {**CHAT, "aliases": ["think"]}],
            "r1/1.0.0, chat/3, aliases: think is there 2 times",
        ),
        (
            [STABLE, CANARY, {**CHAT, "aliases": ["r1"]}],
            "chat/3, aliases: r1 is the name of a model",
        ),
        (
            [{**STABLE, "fallback": "qwen"}, CANARY, CHAT],
            "r1, fallback: there is no model qwen. The models are chat, r1",
        ),
        (
            [{**STABLE, "fallback": "r1"}, CANARY, CHAT],
            "r1, fallback: it leads in a circle: r1 -> r1",
        ),
        (
            [STABLE, CANARY, {**CHAT, "fallback": "r1"}],
            "r1, fallback: it leads in a circle: r1 -> chat -> r1",
        ),
        (
            [
                STABLE,
                {
                    **CANARY,
                    "engine": "onnxruntime",
                    "precision": "int8",
                    "precisions": [{"name": "int8"}],
                },
                CHAT,
            ],
            "inference-1: its workers need the engines none (r1/1.0.0), onnxruntime (r1/1.1.0)",
        ),
    ],
)
def test_a_wrong_entry_is_refused_alone(listed: Any, says: str) -> None:
    mine = [line for line in found(listed) if says in line]
    assert len(mine) == 1, found(listed)


def test_everything_is_told_at_once() -> None:
    lines = found(
        [
            {**STABLE, "fallback": "nothing", "workers": ["inference-9:main"]},
            {**CANARY, "share": 99},
            {**CHAT, "aliases": ["think", "r1"]},
        ]
    )
    assert len(lines) == 7, lines
    assert all(re.fullmatch(r".+: .+\. .+\.", line) for line in lines), "where, what, remedy"


def test_the_list_and_the_variables_of_a_single_release_exclude_each_other() -> None:
    lines = found([entry()], **ALONE)
    assert [line.partition(":")[0] for line in lines] == list(ALONE)
    assert all("is set, and so is deepseek_releases" in line for line in lines)
    assert found([entry()], **dict.fromkeys(ALONE)) == [], "null is not set"


def test_workers_that_are_not_well_described_are_said_of_their_host() -> None:
    told = site(SOUND)
    told["inference-1"]["deepseek_workers"] = [{"name": "A B"}]
    assert list(release_findings.placement_problems(HOSTS, told)) == []


def test_the_filter_gives_the_list_or_all_that_is_wrong() -> None:
    storage = {"storage-1": {"deepseek_releases": SOUND}}
    assert as_filter(HOSTS, {**storage, **site(SOUND)}) == releases(HOSTS, site(SOUND))
    assert [one["workers"] for one in as_filter([], {"storage-1": ALONE})] == [[]]
    with pytest.raises(AnsibleFilterError, match=r"share: it is 99.*fallback: there is no model x"):
        as_filter(HOSTS, site([{**STABLE, "fallback": "x"}, {**CANARY, "share": 99}, CHAT]))
    usable = as_filter(HOSTS, site([CANARY, {"model": "x"}, 7]), judged=False)
    assert [one["label"] for one in usable] == ["r1/1.1.0"]
    with pytest.raises(AnsibleFilterError, match="set deepseek_model_name"):
        as_filter(HOSTS, site())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children)
    ),
    max_leaves=4,
)
fields = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), anything, max_size=6)


@given(listed=anything | st.lists(fields | anything, max_size=4), alone=anything)
def test_whatever_is_written_is_answered(listed: Any, alone: Any) -> None:
    for line in found(listed, deepseek_model_name=alone):
        assert line.endswith(".")
    assert isinstance(engines("inference-1", site(listed)["inference-1"]), list)


@st.composite
def sound_lists(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Lists in which every worker has one release, and every model one that stays."""
    order = draw(st.permutations(ALL))
    cuts = sorted(draw(st.sets(st.integers(1, len(ALL) - 1), max_size=3)))
    parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    listed = [entry(f"m{number}", workers=part) for number, part in enumerate(parts)]
    for one in listed:
        if len(one["workers"]) > 1 and draw(st.booleans()):
            *stay, last = one["workers"]
            one["workers"] = stay
            most = 100 // (len(stay) + 1)
            share = draw(st.integers(1, min(most, 50)))
            listed = [*listed, entry(one["model"], "2", workers=[last], share=share)]
    return listed


@given(listed=sound_lists())
def test_every_worker_of_a_sound_list_has_exactly_one_release(listed: list[dict[str, Any]]) -> None:
    assert found(listed) == []
    every = releases(HOSTS, site(listed))
    assert sorted(worker for one in every for worker in one["workers"]) == sorted(ALL)
    assert [one["label"] for one in every] == [f"{one['model']}/{one['version']}" for one in listed]
    for host in HOSTS:
        mine = [worker for worker in ALL if worker.startswith(f"{host}:")]
        named = [{"name": worker.partition(":")[2]} for worker in mine]
        got = with_releases(named, host, every)
        assert [one["name"] for one in got] == [one["name"] for one in named]
        for worker in got:
            assert f"{host}:{worker['name']}" in worker["release"]["workers"]


@given(listed=sound_lists(), data=st.data())
def test_a_worker_that_is_taken_away_is_missed(
    listed: list[dict[str, Any]], data: st.DataObject
) -> None:
    owner = data.draw(st.sampled_from(listed))
    gone = data.draw(st.sampled_from(owner["workers"]))
    owner["workers"] = [one for one in owner["workers"] if one != gone]
    assert [line for line in found(listed) if f"{gone}: it has no release" in line]


def test_the_keys_of_an_entry_are_those_that_are_judged() -> None:
    assert set(KEYS) == release_findings.RULES.keys()
    assert set(SCALARS) < set(KEYS)
