# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway does without its backends, and without its token; each test puts them back."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from typing import Any

from conftest import Gateway
from lab_hosts import ADDRESSES, ask, hosts, name_of, wait_for
from testinfra import get_host

testinfra_hosts = hosts("gateway-1", "gateway-2")

TOKEN = "/var/lib/deepseek/hsm/gateway"
BACKENDS = " ".join(f"backend@{port}.service" for port in range(8000, 8004))
PROBE = "deepseek-gateway-probe.service"


def is_served(answer: Any) -> bool:
    return bool(answer.status == http.HTTPStatus.OK)


@contextlib.contextmanager
def without_backends() -> Iterator[None]:
    inference = get_host(*hosts("inference-1"))
    inference.run_expect([0], f"systemctl stop {BACKENDS}")
    try:
        yield
    finally:
        inference.run_expect([0], f"systemctl start {BACKENDS}")


@contextlib.contextmanager
def without_token(host: Any) -> Iterator[None]:
    """The objects of the token are not where they are looked for."""
    objects = host.check_output(f"find {TOKEN} -mindepth 1 -maxdepth 1 -type d").splitlines()[0]
    host.run_expect([0], "mv %s %s", objects, f"{TOKEN}-away")
    try:
        yield
    finally:
        host.run_expect([0], "mv %s %s", f"{TOKEN}-away", objects)


def test_without_backends_it_says_so(host: Any, peer: Gateway) -> None:
    def models() -> Any:
        return ask(host, peer.service, "/v1/models")

    with without_backends():
        wait_for(
            models,
            lambda answer: (
                answer.status == http.HTTPStatus.SERVICE_UNAVAILABLE
                and answer.json["error"]["code"] == "no_worker_ready"
            ),
        )
    wait_for(models, is_served)


def test_the_probe_restarts_it_once_its_token_is_back(host: Any) -> None:
    def health() -> Any:
        return ask(host, ADDRESSES[name_of(host)]["service"], "/healthz")

    def process() -> str:
        show = "systemctl show --property=MainPID --value deepseek-gateway.service"
        return str(host.check_output(show))

    before = process()
    with without_token(host):
        assert not is_served(health())
        assert host.run(f"systemctl start {PROBE}").rc != 0
        assert process() == before
    host.run(f"systemctl start {PROBE}")  # it has restarted the gateway, or found it restarted
    wait_for(health, is_served)
    said = host.check_output(f"journalctl --unit={PROBE} --output=cat --no-pager")
    assert "TOKEN_MISSING" in said
    assert "started again" in said
    assert process() != before
