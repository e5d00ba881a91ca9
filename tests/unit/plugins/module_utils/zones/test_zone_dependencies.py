# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hosts are set up to ask: mirrors, proxies, name servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from example_site import site

from ansible_collections.onprem.deepseek.plugins.module_utils.zones.dependencies import dependencies
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.needs import dependency_problems
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.reading import read


def asked_by(outputs: dict[str, str]) -> Any:
    def ask(argv: Any) -> tuple[int, str]:
        key = " ".join(argv[:2]) if argv[0] != "getent" else f"getent {argv[2]}"
        return (0, outputs[key]) if key in outputs else (2, "")

    return ask


INDEX = (
    "http://deb.example/dists/x/Packages\nhttps://sec.example:8443/y\ncdrom:[x]/z\nfile:/mnt/a\n"
)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ("", [("10.7.0.1", 80), ("10.7.0.2", 8443)]),
        ('Acquire::http::Proxy "http://10.8.0.1:3142/";\n', [("10.8.0.1", 3142)]),
        (
            'Acquire::http::Proxy "http://10.8.0.1:3142/";\nAcquire::https::Proxy "DIRECT";\n',
            [("10.7.0.2", 8443), ("10.8.0.1", 3142)],
        ),
        (
            (
                'Acquire::http::Proxy "http://10.8.0.1";\n'
                'Acquire::http::Proxy::deb.example "DIRECT";\n'
            ),
            [("10.7.0.1", 80), ("10.8.0.1", 80)],
        ),
    ],
)
def test_apts_indexes_and_proxies_are_found(
    config: str, wanted: list[tuple[str, int]], tmp_path: Path
) -> None:
    ask = asked_by(
        {
            "apt-config dump": config,
            "apt-get indextargets": INDEX,
            "getent deb.example": "10.7.0.1 STREAM deb.example\n10.7.0.1 DGRAM\n",
            "getent sec.example": "10.7.0.2 STREAM\n",
        }
    )
    found, unresolved = dependencies(ask, [str(tmp_path / "none")])
    assert sorted((item["address"], item["port"]) for item in found) == wanted
    assert unresolved == []


def test_name_servers_are_found_and_what_has_no_address_is_said(tmp_path: Path) -> None:
    config = tmp_path / "resolv.conf"
    config.write_bytes(
        b"# \xff\nnameserver 127.0.0.53\nnameserver 10.7.0.3\n"
        b"nameserver fe80::1%eth0\nnameserver x\n"
    )
    found, unresolved = dependencies(asked_by({"apt-get indextargets": INDEX}), [str(config)])
    assert [(item["address"], item["protocol"], item["port"]) for item in found] == [
        ("10.7.0.3", "udp", 53),
        ("fe80::1", "udp", 53),
    ]
    assert len(unresolved) == 2


def test_a_mirror_without_a_flow_is_told_before_the_rules_block_it() -> None:
    matrix, _unused = read(site())
    wanted = [
        {"what": "a package index of apt", "address": "10.7.0.1", "protocol": "tcp", "port": 80},
        {"what": "the proxy of apt", "address": "10.1.10.2", "protocol": "tcp", "port": 443},
        {"what": "a name server of x", "address": "10.1.10.2", "protocol": "udp", "port": 53},
        {"what": "a name server of x", "address": "10.1.10.31", "protocol": "udp", "port": 53},
    ]
    lines = [str(problem) for problem in dependency_problems(matrix, {"storage-1": wanted})]
    assert len(lines) == 1
    assert (
        "storage-1: a package index of apt is at 10.7.0.1, "
        "and no flow lets the host reach tcp port 80" in lines[0]
    )
