# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients of a worker get: answers from the release, or nothing if they may not ask."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conftest import MODEL, VERSION
from lab_hosts import ADDRESSES, HOST_CERTIFICATE, Answer, ask, hosts, name_of

testinfra_hosts = hosts("inference-1", "inference-2", "inference-3")

PORT = 8000


@pytest.fixture(scope="module")
def own(host: Any) -> str:
    """The address where the host's workers listen."""
    return ADDRESSES[name_of(host)]["inference"]


def question(host: Any, address: str, content: str) -> Answer:
    body = {
        "model": MODEL,
        "temperature": 0,
        "max_tokens": 32,
        "messages": [{"role": "user", "content": content}],
    }
    return ask(
        host,
        address,
        "/v1/chat/completions",
        port=PORT,
        method="POST",
        headers={"Content-Type": "application/json"},
        body=json.dumps(body),
        certificate=HOST_CERTIFICATE,
    )


def test_the_release_answers_with_the_hosts_certificate(host: Any, own: str) -> None:
    answer = question(host, own, "What is a slot?")
    assert answer.status == 200, answer
    assert answer.json["model"] == MODEL
    assert answer.json["choices"][0]["message"]["content"]
    release = answer.headers["x-deepseek-release"]
    assert re.fullmatch(f"{MODEL}/{re.escape(VERSION)}@[0-9a-f]{{12}}", release)


def test_without_a_certificate_there_is_no_answer(host: Any, own: str) -> None:
    answer = ask(host, own, "/readyz", port=PORT)
    assert answer.status == 0
    assert re.search(
        r"certificate|alert|ssl|remote end closed|reset|broken pipe", answer.text, re.IGNORECASE
    )


def test_without_tls_there_is_no_answer(host: Any, own: str) -> None:
    answer = ask(host, own, "/readyz", port=PORT, tls=False)
    assert answer.status == 0
    assert re.search(r"reset|closed|disconnect|broken pipe|bad ?status", answer.text, re.IGNORECASE)


def test_a_host_that_is_not_allowed_gets_no_answer(host: Any) -> None:
    """Its certificate is of the same CA; its name is not allowed, and its packets are dropped."""
    other = "inference-2" if name_of(host) == "inference-1" else "inference-1"
    address = ADDRESSES[other]["inference"]
    stranger = ask(host, address, "/readyz", port=PORT, certificate=HOST_CERTIFICATE, timeout=5)
    assert stranger.status in (0, 403)
