# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The workers of each host, as the scenario's inventory describes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from lab_hosts import name_of

STORE = "/srv/deepseek/store"
MODEL, VERSION = "tiny-onprem", "1.0.0"


@dataclass(frozen=True)
class Worker:
    """The last worker of a host: its unit and process, its processors and memory in bytes."""

    unit: str
    process: int
    cpus: str
    memory_max: int | None


# name, cpus, memory_max; of the hosts that are not named the one worker has everything.
RIGHT = ("right", "1", 2 << 30)
MAIN = ("main", "", None)


@pytest.fixture(scope="module")
def worker(host: Any) -> Worker:
    name, cpus, memory_max = RIGHT if name_of(host) == "inference-1" else MAIN
    unit = f"deepseek-inference@{name}.service"
    return Worker(unit, main_process(host, unit), cpus, memory_max)


def main_process(host: Any, unit: str) -> int:
    """The unit's main process, which must run."""
    process = int(host.check_output("systemctl show --property=MainPID --value %s", unit))
    assert process > 0
    return process
