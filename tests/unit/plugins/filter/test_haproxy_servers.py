# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.filter.haproxy_servers import FilterModule

haproxy_servers = FilterModule().filters()["haproxy_servers"]
HOSTVARS = {
    "inference-1": {"deepseek_zone_addresses": {"inference": "10.0.30.21"}},
    "storage-1": {"deepseek_zone_addresses": {"storage": "10.0.40.31"}},
}


def test_workers_have_the_names_that_haproxy_has() -> None:
    workers = [
        {"host": "inference-1", "name": name, "port": port}
        for name, port in (("a", 8000), ("b", 8001))
    ]
    assert haproxy_servers(workers, HOSTVARS) == [
        {"name": "inference-1:a", "port": 8000, "address": "10.0.30.21"},
        {"name": "inference-1:b", "port": 8001, "address": "10.0.30.21"},
    ]


@pytest.mark.parametrize("host", ["storage-1", "inference-9"])
def test_a_host_without_an_address_is_refused(host: str) -> None:
    with pytest.raises(AnsibleFilterError, match="haproxy_servers: not described"):
        haproxy_servers([{"host": host, "name": "a", "port": 8000}], HOSTVARS)
