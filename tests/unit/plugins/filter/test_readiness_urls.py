# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.filter.readiness_urls import FilterModule

urls = FilterModule().filters()["readiness_urls"]
HOSTVARS = {
    "a": {"deepseek_zone_addresses": {"inference": "10.0.0.1"}},
    "b": {
        "deepseek_zone_addresses": {"inference": "fd00::1"},
        "deepseek_workers": [{"name": "x"}, {"name": "y"}],
    },
    "c": {},
    "d": {
        "deepseek_zone_addresses": {"inference": "10.0.0.4"},
        "deepseek_workers": [{"name": "A"}],
    },
}


def test_every_worker_of_every_host_has_its_own() -> None:
    assert [(one["host"], one["url"]) for one in urls(["a", "b"], HOSTVARS, "8443")] == [
        ("a", "https://10.0.0.1:8443/readyz"),
        ("b", "https://[fd00::1]:8443/readyz"),
        ("b", "https://[fd00::1]:8444/readyz"),
    ]
    assert [one["name"] for one in urls(["b"], HOSTVARS, 8443)] == ["x", "y"]
    assert urls([], HOSTVARS, 8443) == []


@pytest.mark.parametrize(("host", "says"), [("c", "c has no address"), ("d", "worker 1")])
def test_a_host_that_is_not_well_described_is_an_error(host: str, says: str) -> None:
    with pytest.raises(AnsibleFilterError, match=says):
        urls([host], HOSTVARS, 8443)
