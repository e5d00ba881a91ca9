# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the metrics of the workers of canaries at a gateway, through HAProxy, and keep the last of each for the release host.

HAProxy has the certificate that workers ask for; the watchdog has no network of its own.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .measures import MeasureError
from .worker_measures import MOST_BYTES, Generations, Objectives, Reading, read_metrics

TIMEOUT_SECONDS = 2
AT_A_TIME = 8
# What is older says nothing of a worker any more.
FRESH_SECONDS = 30.0

# The metrics of a worker by name. Raises OSError, http.client.HTTPException, MeasureError.
Fetch = Callable[[str], str]


class _Local(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def through(path: str) -> Fetch:
    """Return what reads metrics through HAProxy's socket for them, at which each worker has its name as the path."""

    def fetch(server: str) -> str:
        connection = _Local(path)
        try:
            connection.request("GET", f"/{server}")
            answer = connection.getresponse()
            data = answer.read(MOST_BYTES + 1)
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise MeasureError(f"status {answer.status}")
        return data.decode("utf-8", "replace")

    return fetch


@dataclass
class WorkerReadings:
    """The last reading of each worker, and when it was read."""

    fetch: Fetch
    objectives: Objectives
    clock: Callable[[], float]
    say: Callable[[str], object]
    _read: dict[str, tuple[float, Reading]] = field(default_factory=dict)
    _wrong: dict[str, str] = field(default_factory=dict)

    def look(self, servers: Iterable[str]) -> None:
        """Read the workers. What is wrong with one is said once."""
        now, names = self.clock(), sorted(servers)
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for name, found in zip(names, pool.map(self._one, names)):
                if isinstance(found, Reading):
                    self._read[name] = (now, found)
                    self._wrong.pop(name, None)
                elif self._wrong.get(name) != found:
                    self._wrong[name] = found
                    self.say(f"the metrics of {name} cannot be read: {found}")

    def _one(self, name: str) -> Reading | str:
        try:
            return read_metrics(self.fetch(name), self.objectives)
        except (OSError, http.client.HTTPException, MeasureError) as error:
            return str(error) or type(error).__name__

    def fresh(self, servers: Iterable[str]) -> dict[str, Any]:
        """Readings that are not too old, as JSON has them."""
        now = self.clock()
        known = {name: self._read[name] for name in servers if name in self._read}
        return {
            name: written(reading)
            for name, (at, reading) in known.items()
            if now - at <= FRESH_SECONDS
        }


def written(reading: Reading) -> dict[str, Any]:
    """Return a reading as JSON has it."""
    return {
        "first": [reading.slow_first, reading.first],
        "tokens": [reading.slow_tokens, reading.tokens],
        "clients": {name: [one.bad, one.all] for name, one in reading.clients.items()},
    }


def read_written(document: object) -> Reading:
    """Read what `written` made. Raises MeasureError."""
    if not isinstance(document, Mapping) or not isinstance(document.get("clients"), Mapping):
        raise MeasureError(f"this is no reading of a worker: {str(document)[:80]}")
    first, tokens = _pair(document.get("first")), _pair(document.get("tokens"))
    clients = {str(name): Generations(*_pair(pair)) for name, pair in document["clients"].items()}
    return Reading(*first, *tokens, clients)


def _pair(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise MeasureError(f"this is no pair of counters: {str(value)[:80]}")
    bad, total = value
    # true and false are numbers, too
    whole = all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    if not whole or not 0 <= bad <= total:
        raise MeasureError(f"these are no counters: {str(value)[:80]}")
    return bad, total
