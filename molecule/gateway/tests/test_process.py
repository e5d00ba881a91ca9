# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway's process and its surroundings: rights, listeners, log, and the key in its token."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from conftest import Gateway
from lab_hosts import ADDRESSES, ask, hosts, name_of, wait_for

testinfra_hosts = hosts("gateway-1", "gateway-2")

UNIT = "deepseek-gateway.service"
# As the unit runs: the gateway's user, its PIN as a credential, and its settings of OpenSSL.
AS_THE_GATEWAY = (
    "systemd-run --quiet --wait --pipe --collect --property=User=haproxy"
    " --property=LoadCredentialEncrypted=hsm-pin:/etc/deepseek/hsm/gateway/pin.cred"
    " --setenv=OPENSSL_CONF=/etc/deepseek/gateway/openssl.cnf"
    " --setenv=SOFTHSM2_CONF=/etc/deepseek/hsm/gateway/softhsm2.conf"
    " env 'GATEWAY_PIN_FILE=${CREDENTIALS_DIRECTORY}/hsm-pin'"
    " openssl pkey -in /etc/deepseek/gateway/server.pem"
)


def test_the_unit_is_tight(host: Any) -> None:
    unit = host.service(UNIT).systemd_properties
    wanted = {
        "ActiveState": "active",
        "User": "haproxy",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
    }
    assert {name: unit[name] for name in wanted} == wanted


def test_the_distributions_own_service_cannot_start(host: Any) -> None:
    assert host.service("haproxy.service").is_masked


def test_only_known_ports_are_listened_on(host: Any) -> None:
    listening = host.check_output("ss --tcp --listening --numeric --no-header").splitlines()
    assert {line.split()[3].rpartition(":")[2] for line in listening} == {"22", "443", "8405"}


def test_the_directory_of_the_admin_socket_is_closed(host: Any) -> None:
    """Its group may connect to a socket in there, and see nothing."""
    assert host.file("/run/deepseek-gateway").mode == 0o710
    assert host.file("/run/deepseek-gateway/admin.sock").mode == 0o600


def test_requests_are_logged_without_their_keys(host: Any, peer: Gateway) -> None:
    """This host's gateway logs what this host asks it, so there is one of its own to look for."""
    key = f"sk-logged-{name_of(host)}"
    ask(
        host,
        ADDRESSES[name_of(host)]["service"],
        "/v1/models",
        headers={"Authorization": f"Bearer {key}"},
    )
    ask(
        host,
        ADDRESSES[name_of(host)]["service"],
        "/v1/chat/completions",
        method="POST",
        body=json.dumps({"stream": True, "seconds": 0}),
    )
    hashed = hashlib.sha256(key.encode()).hexdigest()[:12]

    def entries() -> list[dict[str, Any]]:
        log = host.check_output(
            f"journalctl --unit={UNIT} --output=cat --no-pager --grep=request_id"
        )
        assert "sk-" not in log
        return [json.loads(line) for line in log.splitlines()]

    def complete(found: list[dict[str, Any]]) -> bool:
        return (
            200 in {one["status"] for one in found if one["path"] == "/v1/models"}
            and hashed in {one["key"] for one in found}
            and "stand-in/1.0.0@000000000000" in {one["release"] for one in found}
        )

    wait_for(entries, complete)


def test_the_key_does_not_leave_its_token(host: Any) -> None:
    """The public half is read the same way, so the refusal is not for another reason."""
    exported = host.run(AS_THE_GATEWAY)
    assert exported.rc != 0
    assert "PRIVATE KEY" not in exported.stdout
    public = host.check_output(f"{AS_THE_GATEWAY} -pubout")
    certificate = "/etc/deepseek/gateway/server.pem"
    assert public == host.check_output(f"openssl x509 -in {certificate} -noout -pubkey")
