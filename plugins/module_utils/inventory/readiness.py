# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the workers of hosts say whether they are ready."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .workers import workers


def readiness_urls(
    hosts: Iterable[tuple[str, Mapping[str, Any]]], port: int
) -> list[dict[str, str]]:
    """Give for each worker of the hosts its ``host``, its ``name`` and the ``url`` that says whether it is ready.

    Each host comes with its variables. Raises ValueError where its workers or its address are not well described.
    """
    return [
        {
            "host": host,
            "name": worker["name"],
            "url": f"https://{_address(host, said)}:{worker['port']}/readyz",
        }
        for host, said in hosts
        for worker in workers(said.get("deepseek_workers"), port)
    ]


def _address(host: str, said: Mapping[str, Any]) -> str:
    address = str((said.get("deepseek_zone_addresses") or {}).get("inference") or "")
    if not address:
        raise ValueError(f"{host} has no address in the inference zone")
    return f"[{address}]" if ":" in address else address
