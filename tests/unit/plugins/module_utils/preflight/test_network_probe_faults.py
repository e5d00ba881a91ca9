# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe between two network namespaces, with faults of the network between them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[5]


NAMESPACES = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None,
    reason="network namespaces take root and iproute2",
)
PROBE = """
import json, sys
from dataclasses import asdict
sys.path.insert(0, sys.argv[1])
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.network_probe import *
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.probe_service import *
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.probe_wire import *
target = Target("b", "storage", sys.argv[3], sys.argv[2], 1500)
(result,) = probe([target], b"a token of this test", 18442, 20, 20)
print(json.dumps(asdict(result)))
"""
SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.probe_service import *
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.probe_wire import *
sockets = open_sockets(sys.argv[2:4], 18442, b"a token of this test")
print(sockets.errors, flush=True)
serve(sockets, b"a token of this test", ["10.99.0.1", "fd99::1"], Limits(300, 1, 10**7))
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Cable:
    """Two hosts with a cable between them, and a router's worth of faults."""

    def __init__(self) -> None:
        self.a, self.b = f"probe-a-{os.getpid()}", f"probe-b-{os.getpid()}"

    def __enter__(self) -> Cable:
        for name in (self.a, self.b):
            ip("netns", "add", name)
        ip("link", "add", "v0", "netns", self.a, "type", "veth", "peer", "v0", "netns", self.b)
        for name, number in ((self.a, 1), (self.b, 2)):
            ip("-n", name, "address", "add", f"10.99.0.{number}/24", "dev", "v0")
            ip("-n", name, "address", "add", f"fd99::{number}/64", "dev", "v0", "nodad")
            for device in ("lo", "v0"):
                ip("-n", name, "link", "set", device, "up")
        self.server = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.b, sys.executable, "-c", SERVE),
                *(str(ROOT / ".cache/collections"), "10.99.0.2", "fd99::2"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == "{}\n"
        return self

    def __exit__(self, *error: object) -> None:
        self.server.kill()
        self.server.communicate()
        for name in (self.a, self.b):
            ip("netns", "delete", name)

    def probe(self, version: int = 4) -> dict[str, Any]:
        ends = {4: ("10.99.0.1", "10.99.0.2"), 6: ("fd99::1", "fd99::2")}[version]
        done = subprocess.run(
            [
                *("ip", "netns", "exec", self.a, sys.executable, "-c", PROBE),
                *(str(ROOT / ".cache/collections"), *ends),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def run_in_b(self, *words: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.b, *words], check=True, capture_output=True)


@pytest.fixture
def path() -> Iterator[Cable]:
    with Cable() as made:
        yield made


@NAMESPACES
@pytest.mark.parametrize("version", [4, 6])
def test_a_healthy_path(path: Cable, version: int) -> None:
    result = path.probe(version)
    assert (result["problem"], result["lost"], result["path_mtu"]) == ("", 0, 1500)
    assert result["rtt_ms"]["median"] < 50


@NAMESPACES
@pytest.mark.parametrize(("version", "mtu"), [(4, 1400), (6, 1400)])
def test_an_mtu_that_is_lower_at_the_other_end(path: Cable, version: int, mtu: int) -> None:
    """The other end drops what is larger without a word."""
    ip("-n", path.b, "link", "set", "v0", "mtu", str(mtu))
    result = path.probe(version)
    assert (result["problem"], result["lost"], result["path_mtu"]) == ("", 0, mtu)


@NAMESPACES
def test_an_mtu_that_is_lower_at_this_end(path: Cable) -> None:
    ip("-n", path.a, "link", "set", "v0", "mtu", "1300")
    assert path.probe()["path_mtu"] == 1300


@NAMESPACES
def test_a_link_that_is_down(path: Cable) -> None:
    ip("-n", path.b, "link", "set", "v0", "down")
    result = path.probe()
    assert result["blocked"] == "tcp"
    assert result["problem"] in ("no answer within 2 s", "No route to host")


@NAMESPACES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.skipif(shutil.which("nft") is None, reason="packets are dropped with nftables")
def test_a_port_whose_packets_are_dropped(path: Cable, protocol: str) -> None:
    path.run_in_b("nft", "add table inet t")
    path.run_in_b("nft", "add chain inet t in { type filter hook input priority 0; }")
    path.run_in_b("nft", f"add rule inet t in {protocol} dport 18442 drop")
    result = path.probe()
    assert result["blocked"] == protocol
