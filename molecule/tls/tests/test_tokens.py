# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private keys that live in tokens do not leave them, whatever tool asks; and none is elsewhere."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab_hosts import hosts, name_of

testinfra_hosts = hosts("gateway-1", "inference-1")

EXTRACT = (Path(__file__).resolve().parents[1] / "files" / "extract.py").read_text()
MODULE = "/usr/lib/softhsm/libsofthsm2.so"
# Where there may be what no package has.
SEARCHED = "/etc /home /opt /root /run /srv /tmp /var"
# What scenarios keep for each other is this machine's (tests/lab/package.yml).
LEFT_OUT = "--devices=skip --exclude-dir=onprem-deepseek-lab"


@dataclass(frozen=True)
class Token:
    """A token of a host, with the key in it and the command that prints its PIN."""

    host: Any
    kind: str
    label: str
    key: str
    pin: str

    @property
    def uri(self) -> str:
        return f"pkcs11:token={self.label};object={self.key}"

    def run(self, command: str, *arguments: str) -> Any:
        """Run a command on the host that finds the token's PIN in $PIN."""
        script = (
            f"export SOFTHSM2_CONF=/etc/deepseek/hsm/{self.kind}/softhsm2.conf;"
            f' PIN="$({self.pin})" || exit 99; export PIN; {command}'
        )
        return self.host.run("sh -c %s sh" + " %s" * len(arguments), script, *arguments)


@pytest.fixture
def token(host: Any) -> Token:
    if name_of(host) == "gateway-1":
        pin = "systemd-creds decrypt --name=hsm-pin /etc/deepseek/hsm/gateway/pin.cred -"
        return Token(host, "gateway", "deepseek-gateway", "gateway", pin)
    return Token(host, "ca", "deepseek-ca", "issuing", "cat /etc/deepseek/hsm/ca/pin")


def test_pkcs11_gives_no_key(token: Token) -> None:
    done = token.run(
        'printf %s "$PIN" | /usr/bin/python3 -c "$@"', EXTRACT, MODULE, token.label, token.key
    )
    assert done.rc == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 4


def test_opensc_reads_no_key(host: Any, token: Token) -> None:
    done = token.run(
        f"pkcs11-tool --module={MODULE} --token-label={token.label} --login --pin=env:PIN"
        f" --read-object --type=privkey --label={token.key} --output-file=/root/stolen"
    )
    assert done.rc in (0, 1)
    stolen = host.file("/root/stolen")
    assert not stolen.exists or stolen.size == 0


def test_gnutls_exports_the_public_half_only(token: Token) -> None:
    """The public half is read the same way, so the refusal is not for another reason."""
    tool = f"GNUTLS_PIN=$PIN p11tool --provider={MODULE} --batch --login"
    uri = shlex.quote(f"{token.uri};type=private")
    refused = token.run(f"{tool} --export {uri}")
    assert refused.rc not in (0, 99)
    assert "PRIVATE KEY" not in refused.stdout
    assert "PUBLIC KEY" in token.run(f"{tool} --export-pubkey {uri}").stdout


def test_p11_kit_exports_the_public_half_only(host: Any, token: Token) -> None:
    """Debian 12 has one that exports nothing. It takes a PIN from nowhere but the command line."""
    if host.system_info.codename == "bookworm":
        pytest.skip("this p11-kit cannot export objects")
    tool = f"p11-kit export-object --provider={MODULE} --login"
    refused = token.run(f'{tool} "{token.uri};type=private?pin-value=$PIN"')
    assert refused.rc not in (0, 99)
    assert "PRIVATE KEY" not in refused.stdout
    assert token.run(f'{tool} "{token.uri};type=public?pin-value=$PIN"').rc == 0


def test_no_file_but_the_hosts_own_has_a_private_key(host: Any) -> None:
    found = host.run(
        f"grep --recursive --files-with-matches --extended-regexp %s {LEFT_OUT} {SEARCHED}",
        "BEGIN [A-Z ]*PRIVATE KEY",
    )
    assert found.rc <= 2  # a socket or a process that has ended cannot be read
    files = [
        path for path in found.stdout.splitlines() if not path.startswith("/etc/ssh/ssh_host_")
    ]
    assert files == ["/etc/deepseek/tls/host.key"]
