# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a gateway's HAProxy counted of each release: its counters as requests and failures at the first attempt.

Columns are those of HAProxy's Management Guide, section 9.1. What they mean was recorded of 2.6 and 3.0 with one kind of failure at a time
(tests/fixtures/rollout/record.py), since several columns count one event, and some count one event twice.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields

from .judge import FAILURES, REFUSALS, Counts

MOST_BYTES = 16 * 1024 * 1024
NOT_SERVERS = ("FRONTEND", "BACKEND")


class MeasureError(Exception):
    """Counters that cannot be read; nothing may be concluded from their absence."""


@dataclass(frozen=True)
class Counters:
    """Counters of one server, since its process began or between two readings; ``current`` is no counter, but requests in progress."""

    sessions: int = 0
    current: int = 0
    heads: int = 0  # final heads of answers, of any status
    heads_4xx: int = 0
    heads_5xx: int = 0
    wretr: int = 0
    wredis: int = 0
    eresp: int = 0
    cli_abrt: int = 0
    srv_abrt: int = 0

    def since(self, earlier: Counters | None) -> Counters:
        """What was counted after an earlier reading; a lower counter is one that began again at zero."""
        if earlier is None or self.sessions < earlier.sessions or self.heads < earlier.heads:
            return self
        values = {
            one.name: max(0, getattr(self, one.name) - getattr(earlier, one.name))
            for one in fields(self)
        }
        return Counters(**{**values, "current": self.current})

    @property
    def retried(self) -> int:
        """Attempts that HAProxy made again: a 425 counts in both columns, a refused connection in one of them."""
        return max(self.wretr, self.wredis)

    @property
    def headless(self) -> int:
        """Attempts that ended without the head of an answer and were not made again.

        Requests whose answer is on its way are taken for such that wait for one: the number is never too large.
        """
        return max(0, self.sessions - self.heads - self.current - self.retried)

    @property
    def cut(self) -> int:
        """Answers that the server broke off: HAProxy 2.6 counts clients that go within an answer in srv_abrt, but not in eresp."""
        return min(self.srv_abrt, max(0, self.eresp - self.headless))

    @property
    def unanswered(self) -> int:
        """Attempts without an answer, those whose client went first left out.

        3.0 counts a connection that closes before the head twice in eresp. What is there beyond attempts without a head and cut answers is
        therefore the number of such. Of the others as many may be clients that went as cli_abrt says.
        """
        closed = min(self.headless, max(0, self.eresp - self.headless - self.cut))
        return closed + max(0, self.headless - closed - self.cli_abrt)

    @property
    def failures(self) -> int:
        """First attempts that failed, each once, whether or not another server answered in the end."""
        return min(self.sessions, self.retried + self.unanswered + self.cut + self.heads_5xx)

    @property
    def waiting(self) -> int:
        """Requests in progress that have no head yet; at least so many."""
        ended = self.heads + self.retried + self.eresp + self.cli_abrt
        return min(self.current, max(0, self.sessions - ended))


@dataclass(frozen=True)
class Reading:
    """All servers of one gateway at one time, by backend and server; ``process`` tells whose counters they are."""

    process: int
    servers: Mapping[tuple[str, str], Counters]


def read_stat(text: str, process: int) -> Reading:
    """The answer to `show stat`. Raises MeasureError where it is none, or has a column less than is needed."""
    if len(text) > MOST_BYTES:
        raise MeasureError(f"HAProxy's counters are larger than {MOST_BYTES} bytes")
    lines = text.strip().split("\n")
    if not lines[0].startswith("# "):
        raise MeasureError(f"this is not what HAProxy answers to show stat: {lines[0][:80]!r}")
    servers = {}
    for row in csv.DictReader([lines[0][2:], *lines[1:]]):
        if row.get("svname") in NOT_SERVERS:
            continue
        try:
            servers[(row["pxname"], row["svname"])] = _counters(row)
        except (KeyError, TypeError, ValueError) as error:
            raise MeasureError(
                f"HAProxy's counters of {row.get('pxname')}/{row.get('svname')} cannot be read: {error!r}"
            ) from error
    return Reading(process, servers)


def _counters(row: Mapping[str, str]) -> Counters:
    def number(name: str) -> int:
        value = int(row[name] or 0)
        if value < 0:
            raise ValueError(f"{name} is {value}")
        return value

    classes = [f"hrsp_{one}" for one in ("2xx", "3xx", "4xx", "5xx", "other")]
    return Counters(
        sessions=number("stot"),
        current=number("scur"),
        heads=sum(number(one) for one in classes),
        heads_4xx=number("hrsp_4xx"),
        heads_5xx=number("hrsp_5xx"),
        **{one: number(one) for one in ("wretr", "wredis", "eresp", "cli_abrt", "srv_abrt")},
    )


@dataclass(frozen=True)
class Window:
    """Readings of one gateway: at the beginning of a stage, now, and one between them that is as old as an answer may take to begin."""

    begin: Reading
    now: Reading
    patience: Reading | None = None

    def counted(self, server: tuple[str, str]) -> tuple[Counters, int]:
        """What a server has counted since the beginning, and how many requests have waited for longer than patience allows."""
        begin = self._same(self.begin, server)
        counters = self.now.servers[server].since(begin)
        if self.patience is None or self.patience.process != self.now.process:
            return counters, 0
        earlier = self.patience.servers.get(server)
        if earlier is None:
            return counters, 0
        after = self.now.servers[server].since(earlier)
        ended = after.heads + after.retried + after.eresp + after.cli_abrt
        return counters, max(0, earlier.since(begin).waiting - ended)

    def _same(self, reading: Reading, server: tuple[str, str]) -> Counters | None:
        return reading.servers.get(server) if reading.process == self.now.process else None


def gateway_counts(
    windows: Iterable[Window], backend: str, canary: Collection[str]
) -> dict[str, Counts]:
    """Failures at the first attempt, and refusals (4xx), of a model on all gateways together.

    ``canary`` names the servers of the backend that serve the canary; all others serve the stable release. Raises MeasureError where a
    gateway does not know the backend or one of those servers.
    """
    totals = {True: [0, 0, 0], False: [0, 0, 0]}
    for window in windows:
        ours = {server for server in window.now.servers if server[0] == backend}
        absent = set(canary) - {name for _backend, name in ours}
        if absent:
            raise MeasureError(
                f"process {window.now.process} has no {', '.join(sorted(absent))} in backend {backend}"
            )
        for server in ours:
            counters, late = window.counted(server)
            total = totals[server[1] in canary]
            total[0] += counters.sessions
            total[1] += min(counters.sessions, counters.failures + late)
            total[2] += min(counters.sessions, counters.heads_4xx)
    (all_1, bad_1, refused_1), (all_0, bad_0, refused_0) = totals[True], totals[False]
    return {
        FAILURES: Counts(bad_1, all_1, bad_0, all_0),
        REFUSALS: Counts(refused_1, all_1, refused_0, all_0),
    }
