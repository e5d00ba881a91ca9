# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a listed client may do with the store: read what is published, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import PORT, SERVERS, STORAGE
from lab_hosts import HOST_CERTIFICATE, Request, ask_all, hosts, name_of

testinfra_hosts = hosts(*STORAGE)
pytestmark = pytest.mark.usefixtures("published")

STATUSES = {
    ("HEAD", "/probe"): 200,
    ("PUT", "/probe"): 405,
    ("POST", "/probe"): 405,
    ("DELETE", "/probe"): 405,
    ("OPTIONS", "/probe"): 405,
    ("GET", "/.lock"): 404,
    ("GET", "/probe.part"): 404,
    ("GET", "/link"): 403,
    ("GET", "/"): 403,
    ("GET", "/nowhere"): 404,
    ("GET", "/%2e%2e/store/probe"): 400,
    ("GET", "/../../../etc/passwd"): 400,
}


def test_it_reads_from_every_storage_host(host: Any) -> None:
    requests = [
        Request(address, "/probe", port=PORT, certificate=HOST_CERTIFICATE)
        for address in SERVERS.values()
    ]
    texts = [answer.text for answer in ask_all(host, requests)]
    assert texts == [f"published by {name}" for name in SERVERS]


def test_it_writes_nothing_and_reads_only_what_is_published(host: Any) -> None:
    requests = [
        Request(
            SERVERS[name_of(host)],
            path,
            port=PORT,
            method=method,
            body="x" if method in ("PUT", "POST") else None,
            certificate=HOST_CERTIFICATE,
        )
        for method, path in STATUSES
    ]
    answers = ask_all(host, requests)
    seen = {(one.method, one.path): a.status for one, a in zip(requests, answers, strict=True)}
    assert seen == STATUSES
