# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a canary did since its share was everywhere, from the counters of all gateways, as the judge takes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .gateways import Reply
from .judge import FAILURES, Counts, Decision, Settings, Stage, decide
from .measures import MeasureError, gateway_counts
from .record import Record
from .settings import Servers
from .windows import Windows


@dataclass
class Stages:
    """The counters of all gateways, since each order."""

    servers: Mapping[str, Servers]
    windows: Windows
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    def judge(
        self, record: Record, said: Mapping[str, Reply], settings: Settings
    ) -> Decision | None:
        """Judge a stage as it stands. What cannot be counted is held, never taken for good."""
        servers = self.servers.get(record.model)
        if servers is None:
            return None
        now = self.monotonic()
        windows = [
            self.windows.add((record.model, name), record.fencing, now, reply.reading)
            for name, reply in said.items()
        ]
        measures: dict[str, Counts | None]
        try:
            measures = {**gateway_counts(windows, servers.backend, servers.canary)}
        except MeasureError:
            measures = {FAILURES: None}
        counted = measures[FAILURES]
        stage = Stage(
            canary_requests=counted.canary_all if counted else 0,
            stable_requests=counted.stable_all if counted else 0,
            share_thousandths=record.share,
            seconds=max(0.0, self.clock() - record.entered_at),
            stable_down=sum(
                server in servers.stable for reply in said.values() for server in reply.down
            ),
        )
        return decide(measures, stage, settings)
