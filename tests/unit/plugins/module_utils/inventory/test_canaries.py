# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The list of releases when the rollout of a canary is over is a sound list again."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.filter.canary import canary
from ansible_collections.onprem.deepseek.plugins.filter.releases import releases
from ansible_collections.onprem.deepseek.plugins.filter.releases_after import releases_after

HOSTS = {"inference-1": ["a", "b"], "inference-2": ["a"], "inference-3": ["a"]}


def entry(version: str, **more: Any) -> dict[str, Any]:
    return {"model": "chat", "version": version, "checkpoint": f"/srv/chat-{version}", **more}


BY_HOSTS = [
    entry("1", hosts=["inference-1", "inference-2"], aliases=["talk"], license="MIT"),
    entry("2", hosts=["inference-3"], share=[5, 25]),
]
BY_WORKERS = [
    entry("1", hosts=["inference-2", "inference-3"], aliases=["talk"], license="MIT"),
    {"model": "code", "version": "1", "checkpoint": "/srv/code", "workers": ["inference-1:a"]},
    entry("2", workers=["inference-1:b"], share=5),
]


def listed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {
        name: {"deepseek_releases": entries, "deepseek_workers": [{"name": one} for one in workers]}
        for name, workers in HOSTS.items()
    }
    return releases(list(HOSTS), names)


@pytest.mark.parametrize("entries", [BY_HOSTS, BY_WORKERS])
@pytest.mark.parametrize(("outcome", "version"), [("promoted", "2"), ("rolled_back", "1")])
def test_the_entry_that_stays_has_all_workers_of_its_model(
    entries: list[dict[str, Any]], outcome: str, version: str
) -> None:
    before = listed(entries)
    after = listed(releases_after(entries, canary(before), outcome))
    assert len(after) == len(before) - 1
    (chat,) = [one for one in after if one["model"] == "chat"]
    of_model = [one for one in before if one["model"] == "chat"]
    assert sorted(chat["workers"]) == sorted(one for each in of_model for one in each["workers"])
    assert (chat["version"], chat["checkpoint"]) == (version, f"/srv/chat-{version}")
    assert (chat["aliases"], chat["steps"]) == (["talk"], [])
    assert chat["license"] == ("" if outcome == "promoted" else "MIT")
    assert [one for one in after if one["model"] == "code"] == [
        one for one in before if one["model"] == "code"
    ]


def test_it_is_said_which_canary_is_meant() -> None:
    with pytest.raises(AnsibleFilterError, match="has no canary of code: add an entry"):
        canary(listed(BY_WORKERS), "code")
    with pytest.raises(AnsibleFilterError, match="has no canary: add an entry"):
        canary([one for one in listed(BY_HOSTS) if not one["is_canary"]])
    two = [*listed(BY_HOSTS), {**listed(BY_HOSTS)[1], "model": "code"}]
    with pytest.raises(AnsibleFilterError, match="canaries of chat, code: name one"):
        canary(two)
    with pytest.raises(AnsibleFilterError, match="no entry without a share beside code/2"):
        canary(
            [*listed(BY_HOSTS), {**listed(BY_HOSTS)[1], "model": "code", "label": "code/2"}], "code"
        )
    with pytest.raises(AnsibleFilterError, match="one of promoted, rolled_back"):
        releases_after(BY_HOSTS, canary(listed(BY_HOSTS)), "gone")
