# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
r"""What the tests of hosts share: the hosts, and requests from them.

The tests are molecule/*/tests, by pytest-testinfra; ``tests/lab/ask_hosts.yml`` runs them and names
the lab in ONPREM_LAB_DIRECTORY. By hand, while the hosts are up::

    PYTHONPATH=tests/lab ONPREM_LAB_DIRECTORY=/var/lib/onprem-deepseek-lab/labs/gateway \
        python -m pytest molecule/gateway/tests
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

LAB = Path(os.environ["ONPREM_LAB_DIRECTORY"])
# By host and zone; hosts.py has written it.
ADDRESSES: dict[str, dict[str, str]] = json.loads((LAB / "addresses.json").read_text())
CA = "/etc/deepseek/tls/ca.pem"
HOST_CERTIFICATE = ("/etc/deepseek/tls/host.pem", "/etc/deepseek/tls/host.key")
WAIT_SECONDS = 300  # ends a hang, and judges no speed
# Sent from the host, since the request is to come from its address, and with its certificate.
REQUEST = Path(__file__).with_name("https_request.py").read_text()

Result = TypeVar("Result")


@dataclass(frozen=True)
class Request:
    """A request, over HTTPS if ``tls``; the server is verified by the certificates in ``ca``."""

    address: str
    path: str
    port: int = 443
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    certificate: tuple[str, str] | None = None
    ca: str = CA
    tls: bool = True
    timeout: float = WAIT_SECONDS


@dataclass(frozen=True)
class Answer:
    """Status (0: there was no answer), headers by their names in small letters, and the body."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def hosts(*names: str) -> list[str]:
    """The hosts in the form of testinfra, for a module's ``testinfra_hosts``; as root."""
    return [f"ssh://{name}?sudo=true&ssh_config={LAB / 'ssh_config'}" for name in names]


def name_of(host: Any) -> str:
    """The inventory's name of a testinfra host."""
    return str(host.backend.get_hostname())


def run_program(host: Any, program: str, *arguments: str) -> str:
    """Run a Python program on the host, which needs no file for it; gives what it printed."""
    command = "/usr/bin/python3 -c %s" + " %s" * len(arguments)
    return str(host.check_output(command, program, *arguments))


def ask(host: Any, address: str, path: str, **options: Any) -> Answer:
    """Send one request from the host; the options are those of Request."""
    return ask_all(host, [Request(address, path, **options)])[0]


def ask_all(host: Any, requests: Sequence[Request]) -> list[Answer]:
    """Send requests from the host, one after the other, by one program."""
    asked = json.dumps([dataclasses.asdict(request) for request in requests])
    return [Answer(*answer) for answer in json.loads(run_program(host, REQUEST, asked))]


def wait_for(look: Callable[[], Result], good: Callable[[Result], bool]) -> Result:
    """Look until it is good; fails with what was seen last."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not good(seen := look()):
        assert time.monotonic() < deadline, f"after {WAIT_SECONDS} s: {seen}"
        time.sleep(0.5)
    return seen
