# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the variables of hosts say of releases, as roles ask for it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.filter.releases import releases
from ansible_collections.onprem.deepseek.plugins.filter.releases_of_host import releases_of_host

ALONE = {
    "deepseek_model_name": "r1",
    "deepseek_model_version": "1.0.0",
    "deepseek_checkpoint": "/srv/import/r1",
}
HOSTS = ["inference-1", "inference-2"]


def hostvars(**second: Any) -> dict[str, dict[str, Any]]:
    """The variables of two hosts of a site with a single release, of which the second says more."""
    return {"inference-1": dict(ALONE), "inference-2": {**ALONE, **second}}


@pytest.mark.parametrize("judged", [True, False])
def test_the_engine_of_one_host_is_not_that_of_another(judged: bool) -> None:
    told = hostvars(deepseek_engine_flavour="onnxruntime_cuda", deepseek_precision="fp16")
    every = releases(HOSTS, told, judged)
    served = {host: releases_of_host(every, host) for host in HOSTS}
    assert [(one["engine"], one["precision"]) for one in served["inference-1"]] == [
        ("none", "fp32")
    ]
    assert [(one["engine"], one["precision"]) for one in served["inference-2"]] == [
        ("onnxruntime_cuda", "fp16")
    ]


def test_what_role_variables_say_of_a_host_goes_before_its_site_variables() -> None:
    every = releases(HOSTS, hostvars(deepseek_precision="fp16"))
    (only,) = releases_of_host(every, "inference-2", {"precision": "int8", "engine": ""})
    assert (only["precision"], only["engine"]) == ("int8", "none")


def test_a_list_that_makes_no_sense_is_refused_unless_it_is_judged_elsewhere() -> None:
    told = {"inference-1": {"deepseek_releases": [{"model": "r1"}]}}
    with pytest.raises(AnsibleFilterError, match="version"):
        releases(["inference-1"], told)
    assert releases(["inference-1"], told, judged=False) == []
