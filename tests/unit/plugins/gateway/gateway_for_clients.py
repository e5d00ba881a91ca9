# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepare a gateway in front of one worker: `python gateway_for_clients.py DIRECTORY PORT`.

For the client libraries of serving/tests/clients, which run in other environments. DIRECTORY gets
`pki`, and the role's configuration in `clients/haproxy.cfg`; the gateway's port is printed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway_pki import make_pki
from gateway_process import render

# as programs on this host find it without a name server
SERVICE = "localhost"
# clients use up a key of the service, one after the other and from one address
VARIANT: dict[str, Any] = {
    "gateway_address_requests_per_minute": 0,
    "gateway_key_requests_per_minute": 0,
    "gateway_error_limit": 1000,
}


@dataclass(frozen=True)
class Worker:
    """The worker that the gateway asks."""

    port: int
    name: str = "a"


def main(directory: Path, port: int) -> None:
    pki = directory / "pki"
    pki.mkdir(parents=True)
    make_pki(pki, SERVICE)
    ports = render(directory, pki, [Worker(port)], {"clients": VARIANT}, SERVICE)
    print(ports["clients"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
