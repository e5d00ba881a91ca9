# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.filter.gateway_models import FilterModule
from ansible_collections.onprem.deepseek.plugins.filter.releases import (
    FilterModule as ReleasesFilter,
)

gateway_models = FilterModule().filters()["gateway_models"]
releases = ReleasesFilter().filters()["releases"]
HOSTS = {
    name: {
        "deepseek_zone_addresses": {"inference": f"10.0.30.{number}"},
        "deepseek_workers": [{"name": "a"}, {"name": "b"}],
    }
    for number, name in enumerate(("inference-1", "inference-2"), 21)
}
ENTRY = {"version": "1", "checkpoint": "/srv/model"}


def site(*entries: dict[str, Any]) -> dict[str, dict[str, Any]]:
    listed = [{**ENTRY, **entry} for entry in entries]
    return {name: {**said, "deepseek_releases": listed} for name, said in HOSTS.items()}


def models_of(hostvars: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gateway_models(releases(list(HOSTS), hostvars), hostvars, 8000)
    return found


def names(servers: list[dict[str, Any]]) -> list[str]:
    return [server["name"] for server in servers]


def test_releases_of_one_model_are_one_with_stable_and_canary_servers() -> None:
    found = models_of(
        site(
            {"model": "chat", "workers": ["inference-1:a", "inference-2:a"], "aliases": ["c"]},
            {"model": "chat", "version": "2", "workers": ["inference-2:b"], "share": [5, 25]},
            {"model": "code", "workers": ["inference-1:b"], "fallback": "chat"},
        )
    )
    assert [(one["model"], one["names"], one["fallback"]) for one in found] == [
        ("chat", ["chat", "c"], ""),
        ("code", ["code"], "chat"),
    ]
    assert names(found[0]["stable"]) == ["inference-1:a", "inference-2:a"]
    assert found[0]["canary"] == [
        {"name": "inference-2:b", "host": "inference-2", "address": "10.0.30.22", "port": 8001}
    ]
    assert (names(found[1]["stable"]), found[1]["canary"]) == (["inference-1:b"], [])


def test_a_site_of_one_release_has_all_workers() -> None:
    (found,) = models_of(site({"model": "chat"}))
    assert names(found["stable"]) == [f"{host}:{worker}" for host in HOSTS for worker in "ab"]


@pytest.mark.parametrize("worker", ["inference-1:z", "inference-9:a"])
def test_a_worker_that_there_is_not_is_refused(worker: str) -> None:
    release = {
        "model": "chat",
        "workers": [worker],
        "is_canary": False,
        "aliases": [],
        "fallback": "",
    }
    with pytest.raises(AnsibleFilterError, match="gateway_models: not described"):
        gateway_models([release], HOSTS, 8000)
