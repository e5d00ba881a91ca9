# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of connections, on this machine's loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.zones.probe import probe_all


def probe(protocol: str, port: int, target: str = "127.0.0.1", **more: Any) -> dict[str, Any]:
    return {"target": target, "protocol": protocol, "port": port, **more}


@pytest.fixture
def closed() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture
def quiet() -> Iterator[int]:
    """A UDP port of a service that does not answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        yield one.getsockname()[1]


@pytest.fixture
def full() -> Iterator[int]:
    """A TCP port whose queue is full, so that it does not answer."""
    with socket.socket() as one, socket.socket() as first, socket.socket() as second:
        one.bind(("127.0.0.1", 0))
        one.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(one.getsockname())
        yield one.getsockname()[1]


def test_outcomes_are_in_the_order_of_the_probes(closed: int, quiet: int, full: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcomes = probe_all(
            [
                probe("tcp", port),
                probe("udp", quiet),
                probe("tcp", closed),
                probe("tcp", full),
                probe("udp", closed),
                probe("tcp", port, source="127.0.0.1"),
                probe("tcp", port, source="192.0.2.77"),
            ],
            0.3,
        )
    reached = "reached"
    assert outcomes == [reached, "silent", reached, "silent", reached, reached, "no route"]


def test_more_probes_than_a_process_may_have_files(closed: int) -> None:
    outcomes = probe_all([probe("tcp", closed)] * 3000, 5.0)
    assert set(outcomes) == {"reached"}


def test_fewer_at_once_where_the_limit_of_open_files_cannot_be_raised(closed: int) -> None:
    program = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.probe import probe_all
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
probe = {{"target": "127.0.0.1", "protocol": "tcp", "port": {closed}}}
print(set(probe_all([probe] * 300, 5.0)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "{'reached'}\n"
