# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The other gateway, which each asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from lab_hosts import ADDRESSES, ask, name_of, wait_for


@dataclass(frozen=True)
class Gateway:
    """The gateway that is asked, and where it listens."""

    name: str
    service: str
    management: str


@pytest.fixture(scope="module")
def peer(host: Any) -> Gateway:
    """The gateway that this host is not; its backends are up."""
    (name,) = {"gateway-1", "gateway-2"} - {name_of(host)}
    gateway = Gateway(name, ADDRESSES[name]["service"], ADDRESSES[name]["management"])
    wait_for(
        lambda: ask(host, gateway.service, "/healthz"), lambda answer: "4 of 4 " in answer.text
    )
    return gateway
