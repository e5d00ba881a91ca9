# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.onprem.deepseek.plugins.filter.site_problems import FilterModule

site_problems = FilterModule().filters()["site_problems"]


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = site_problems(
        [
            {
                "name": "storage-1",
                "values": {"deepseek_gateway_port": 0, "deepseek_modle_name": "m"},
                "unread": {"deepseek_zones": "undefined"},
                "role_problems": [{"name": "tls_dri", "what": "no effect", "remedy": "tls_dir"}],
            }
        ]
    )
    for start in (
        "deepseek_zones: it cannot be read for storage-1",
        "deepseek_gateway_port: it is 0. It must be a port, from 1 to 65535",
        "deepseek_modle_name: there is no site variable of this name. Did you mean",
        "deepseek_service_name: it is not set for storage-1",
        "tls_dri: no effect. tls_dir.",
    ):
        assert any(line.startswith(start) for line in found), start
