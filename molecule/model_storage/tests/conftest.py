# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the storage hosts publish while they are tested."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab_hosts import ADDRESSES, hosts
from testinfra import get_host

STORAGE = ("storage-1", "storage-2", "storage-3")
SERVERS = {name: ADDRESSES[name]["storage"] for name in STORAGE}
PORT = 8443
STORE = "/srv/deepseek/store"
# A file as it is published, one that is hidden, one that is unfinished, and a link to a secret.
PUBLISH = (
    f"cd {STORE} && umask 0222 && printf %s >probe && printf hidden >.lock"
    " && printf unfinished >probe.part && ln -s /etc/deepseek/tls/ca.pem link"
)
RETIRE = f"cd {STORE} && rm -f probe .lock probe.part link"


@pytest.fixture(scope="session")
def published() -> Iterator[None]:
    stores = {name: get_host(*hosts(name)) for name in STORAGE}
    for name, store in stores.items():
        store.run_expect([0], PUBLISH, f"published by {name}")
    yield
    for store in stores.values():
        store.run_expect([0], RETIRE)
