# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheels that the release host publishes, and who may read them."""

from __future__ import annotations

from typing import Any

import pytest
from lab_hosts import ADDRESSES, HOST_CERTIFICATE, Answer, ask, hosts
from testinfra import get_host

testinfra_hosts = hosts("inference-2")


def lock(host: Any, certificate: tuple[str, str] | None, *, tls: bool = True) -> Answer:
    address = ADDRESSES["inference-1"]["storage"]
    path = "/wheels/3.13/requirements.lock"
    return ask(host, address, path, port=8443, certificate=certificate, tls=tls)


def test_the_wheels_have_their_sums() -> None:
    release = get_host(*hosts("inference-1"))
    check = "sha256sum --check --strict --quiet SHA256SUMS"
    release.run_expect([0], f"cd /srv/deepseek/wheels && {check}")


def test_a_host_reads_them_with_its_certificate(host: Any) -> None:
    assert lock(host, HOST_CERTIFICATE).status == 200


@pytest.mark.parametrize("tls", [True, False])
def test_without_a_certificate_or_tls_nothing_is_read(host: Any, tls: bool) -> None:
    assert lock(host, None, tls=tls).status != 200
