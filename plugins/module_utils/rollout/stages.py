# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a canary did since its share was everywhere, from the counters of all gateways, as the judge takes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .gateways import Reply
from .judge import (
    BROKEN_GENERATIONS,
    FAILURES,
    SLOW_FIRST_TOKENS,
    SLOW_TOKENS,
    Counts,
    Decision,
    Settings,
    Stage,
    decide,
)
from .measures import MeasureError, gateway_counts
from .record import Record
from .settings import Servers
from .windows import Windows, WorkerTotals
from .worker_measures import Reading, worker_counts

OF_WORKERS = (SLOW_FIRST_TOKENS, SLOW_TOKENS, BROKEN_GENERATIONS)


@dataclass
class Stages:
    """The counters of all gateways and workers, since each order."""

    servers: Mapping[str, Servers]
    windows: Windows
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    totals: WorkerTotals = field(default_factory=WorkerTotals)

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
        measures |= self._of_workers(record, said, servers, now)
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

    def _of_workers(
        self, record: Record, said: Mapping[str, Reply], servers: Servers, now: float
    ) -> dict[str, Counts | None]:
        """What workers counted themselves; None of what cannot be known.

        Left out is what neither release does, as generating tokens for who asks for vectors: once it had time to be seen.
        """
        for name in servers.canary + servers.stable:
            readings = [reply.workers[name] for reply in said.values() if name in reply.workers]
            if readings:
                # each gateway reads at its own time
                latest = max(readings, key=lambda one: one.extent)
                self.totals.add((record.model, name), record.fencing, now, latest)
        canary, stable = (self._totals(record, names) for names in (servers.canary, servers.stable))
        if not canary or not stable:
            return dict.fromkeys(OF_WORKERS)
        counts = worker_counts(canary, stable)
        early = self.totals.seconds(record.model, now) < self.windows.answer_seconds
        unseen = {name for name, one in counts.items() if not one.canary_all + one.stable_all}
        return {
            name: None if name in unseen else one
            for name, one in counts.items()
            if early or name not in unseen
        }

    def _totals(self, record: Record, names: tuple[str, ...]) -> list[Reading]:
        found = [self.totals.of((record.model, name), record.fencing) for name in names]
        return [one for one in found if one is not None]
