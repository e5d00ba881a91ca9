# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients see of a gateway: TLS, answers, streams, limits, and no metrics."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any

from conftest import Gateway
from lab_hosts import ADDRESSES, HOST_CERTIFICATE, ask, hosts, name_of, run_program

testinfra_hosts = hosts("gateway-1", "gateway-2")

FILES = Path(__file__).resolve().parents[1] / "files"
SERVICE = "deepseek.lab.internal"
MAX_REQUEST_BYTES = 8388608
KEY_REQUESTS_PER_MINUTE = 5  # the scenario's inventory
METRICS_PORT = 8405
FORGED_CERTIFICATE = ("/root/forged.pem", "/root/forged.key")  # verify.yml has made it


def shake_hands(host: Any, peer: Gateway, *options: str) -> Any:
    """A handshake that verifies the chain; all that openssl has to say is in stderr."""
    return host.run(
        "openssl s_client -connect %s -servername %s -CAfile /etc/deepseek/tls/ca.pem"
        " -verify_return_error -brief" + " %s" * len(options) + " </dev/null",
        f"{peer.service}:443",
        SERVICE,
        *options,
    )


def test_chain_and_name_are_verified(host: Any, peer: Gateway) -> None:
    done = shake_hands(host, peer, "-verify_hostname", SERVICE)
    assert done.rc == 0
    assert "Verification: OK" in done.stderr
    assert "TLSv1.3" in done.stderr


def test_it_has_no_other_name(host: Any, peer: Gateway) -> None:
    done = shake_hands(host, peer, "-verify_hostname", "other.example")
    assert done.rc != 0
    assert "ostname mismatch" in done.stderr


def test_tls_1_1_is_refused(host: Any, peer: Gateway) -> None:
    done = shake_hands(host, peer, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    assert done.rc != 0
    assert "alert protocol version" in done.stderr


def test_tls_1_2_needs_an_aead_cipher(host: Any, peer: Gateway) -> None:
    refused = shake_hands(host, peer, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256")
    assert refused.rc != 0
    assert "handshake failure" in refused.stderr
    accepted = shake_hands(host, peer, "-tls1_2")
    assert accepted.rc == 0
    assert "TLSv1.2" in accepted.stderr


def test_what_is_accepted_is_mozillas_intermediate_profile(host: Any, peer: Gateway) -> None:
    run_program(host, (FILES / "profile.py").read_text(), peer.service)


def test_plain_http_is_not_answered(peer: Gateway) -> None:
    """The controller is in the service network, too."""
    connection = http.client.HTTPConnection(peer.service, 443, timeout=300)
    try:
        connection.request("GET", "/healthz")
        assert connection.getresponse().status != http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()


def test_the_backend_knows_gateway_and_client(host: Any, peer: Gateway) -> None:
    answer = ask(host, peer.service, "/v1/models")
    assert answer.status == http.HTTPStatus.OK
    assert answer.json["client"] == peer.name
    assert answer.json["forwarded_for"] == ADDRESSES[name_of(host)]["service"]
    assert "max-age=" in answer.headers["strict-transport-security"]
    assert len(answer.headers["x-request-id"]) == 36


def test_events_of_a_stream_come_when_they_are_sent(host: Any, peer: Gateway) -> None:
    said = run_program(host, (FILES / "stream.py").read_text(), peer.service).split()
    assert said[:3] == ["200", "True", "True"]
    assert float(said[3]) < 1
    assert float(said[4]) > 1.8


def test_what_only_operators_may_see_is_not_there(host: Any, peer: Gateway) -> None:
    assert ask(host, peer.service, "/metrics").status == http.HTTPStatus.NOT_FOUND


def test_a_key_may_ask_so_often(host: Any, peer: Gateway) -> None:
    """HAProxy's window slides by halves, so that at its turn one request more may pass."""
    key = {"Authorization": f"Bearer sk-of-{name_of(host)}"}
    allowed = KEY_REQUESTS_PER_MINUTE
    answers = [ask(host, peer.service, "/v1/models", headers=key) for _time in range(allowed + 2)]
    assert [answer.status for answer in answers[:allowed]] == [200] * allowed
    assert answers[allowed].status in (200, 429)
    assert answers[-1].status == 429
    assert answers[-1].json["error"]["code"] == "key_rate_limit"


def test_a_request_may_be_so_large(host: Any, peer: Gateway) -> None:
    answer = ask(
        host,
        peer.service,
        "/v1/chat/completions",
        method="POST",
        headers={"Content-Length": str(MAX_REQUEST_BYTES + 1)},
        body="x",
    )
    assert answer.status == http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_a_body_without_a_length_has_the_same_limit(host: Any, peer: Gateway) -> None:
    """The worker counts it; a client that sends all before it reads gets the whole answer."""
    sizes = (2, 60_000, MAX_REQUEST_BYTES, MAX_REQUEST_BYTES + 1, 3 * MAX_REQUEST_BYTES)
    program = (FILES / "chunked.py").read_text()
    said = run_program(host, program, peer.service, *map(str, sizes)).splitlines()
    assert said == ["200 -"] * 3 + ["413 request_too_large"] * 2


def test_health_says_whether_a_worker_is_ready(host: Any, peer: Gateway) -> None:
    answer = ask(host, peer.service, "/health")
    assert (answer.status, answer.text) == (http.HTTPStatus.OK, "")


def test_metrics_are_for_those_with_a_certificate(host: Any, peer: Gateway) -> None:
    def metrics(certificate: tuple[str, str] | None) -> Any:
        return ask(host, peer.management, "/metrics", port=METRICS_PORT, certificate=certificate)

    admitted = metrics(HOST_CERTIFICATE)
    for backend, servers in (("model:tiny-onprem", 2), ("model:tiny-code", 1)):
        wanted = f'haproxy_backend_active_servers{{proxy="{backend}"}} {servers}'
        assert wanted in admitted.text
    assert metrics(None).status != http.HTTPStatus.OK
    assert metrics(FORGED_CERTIFICATE).status != http.HTTPStatus.OK
