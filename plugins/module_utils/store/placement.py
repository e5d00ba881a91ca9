# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which storage hosts hold a release: rendezvous hashing (Thaler and Ravishankar, IEEE/ACM ToN 6(1), 1998).

All who know the names of the hosts find the same ones, without a question to any of them. A new host takes the place of
one holder of some releases, and nothing else moves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

# Hosts that hold a release, and the least number of storage hosts of a site.
REPLICAS = 3


def holders(release: str, hosts: Iterable[str], count: int = REPLICAS) -> list[str]:
    """The hosts that hold ``<model>/<version>``, the first choice first; all, where there are not more than *count*."""

    def score(host: str) -> bytes:
        return hashlib.sha256(f"{host}\0{release}".encode()).digest()

    return sorted(set(hosts), key=lambda host: (score(host), host), reverse=True)[:count]
