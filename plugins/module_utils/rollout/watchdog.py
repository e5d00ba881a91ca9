# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guard the canaries of a gateway: `deepseek-rollout-watchdog SETTINGS`, a service beside HAProxy.

It takes orders of the release host from HAProxy, which has asked for a certificate, and every few seconds takes the share away
from a canary that this gateway's own counts find bad, or of which the release host was not heard for too long. For that it asks
HAProxy's runtime socket, and nothing else: neither another host nor Ansible nor Prometheus. A share that nobody ordered is
taken away, too. What workers count themselves it reads through HAProxy, for the release host.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifacts.files import write_file
from ..common.service_manager import notify
from ..gateway.runtime_api import HaproxyError, ask, process_id
from ..gateway.servers import ServersError
from ..gateway.shares import ShareError, set_share, shares_of
from .judge import BAD, judge
from .judge import Settings as JudgeSettings
from .lease import (
    MAX_BYTES,
    Kept,
    Order,
    OrderError,
    accept,
    allowed,
    from_json,
    parse_order,
    to_json,
    trip,
    watch,
)
from .measures import MeasureError, Reading, Window, gateway_counts, read_stat
from .order_socket import listen
from .settings import EX_CONFIG, Gateway, Servers, SettingsError, read_gateway
from .windows import Windows
from .worker_readings import WorkerReadings, through

_DOWN = ("DOWN", "MAINT", "NOLB")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_WRONG = (HaproxyError, ShareError, ServersError, MeasureError, OSError)


@dataclass(frozen=True)
class Means:
    """What a watchdog works with: HAProxy's shares and counters, seconds since the host started, and the name of this boot."""

    shares: Callable[[], Mapping[str, int]]
    set_share: Callable[[str, int], None]
    show_stat: Callable[[], str]
    process: Callable[[], int]
    clock: Callable[[], float]
    boot: str


class Watchdog:
    """Orders that were taken, and what the canaries did since. Used by two threads: one takes orders, one looks."""

    def __init__(
        self,
        directory: Path,
        servers: Mapping[str, Servers],
        settings: JudgeSettings,
        windows: Windows,
        means: Means,
        workers: WorkerReadings,
    ) -> None:
        self._workers = workers
        self._directory = directory
        self._servers = servers
        self._settings = settings
        self._means = means
        self._windows = windows
        self._lock = threading.Lock()
        # The last order of each model that HAProxy has taken: a renewal of it gives nothing back that somebody took away here.
        self._taken: dict[str, int] = {}

    def take(self, body: bytes) -> dict[str, Any]:
        """Carry out an order; what HAProxy says then, and its counters. Raises OrderError."""
        order = parse_order(body)
        with self._lock:
            kept = accept(self._kept(order.model), order, self._means.clock(), self._means.boot)
            # first what may be believed after a crash, then what is done
            self._keep(kept)
            try:
                is_new = self._taken.get(order.model) != order.fencing
                share = self._enforce(order.model, allowed(kept), raise_it=is_new)
                self._taken[order.model] = order.fencing
                stat, process = self._means.show_stat(), self._means.process()
                reading = read_stat(stat, process)
            except _WRONG as error:
                raise OrderError(f"HAProxy did not take it: {error}") from error
            self._window(order, reading)
        return {
            "model": order.model,
            "fencing": order.fencing,
            "share": share,
            "tripped": kept.tripped,
            "process": process,
            "stat": stat,
            "down": self._down(order.model, stat),
            "workers": self._workers.fresh(self._names(order.model)),
        }

    def read_workers(self) -> None:
        """Read the metrics of all workers of models with a canary that has a share. Raises what HAProxy's socket does."""
        models = [model for model, share in self._means.shares().items() if share]
        self._workers.look(name for model in models for name in self._names(model))

    def _names(self, model: str) -> tuple[str, ...]:
        servers = self._servers.get(model)
        return servers.canary + servers.stable if servers else ()

    def look(self) -> list[str]:
        """Take away every share that may not be there any more; what was taken away, and why."""
        with self._lock:
            try:
                said = dict(self._means.shares())
            except _WRONG:
                self._lower_for_the_next_start()
                raise
            lowered = []
            for model, share in said.items():
                kept = self._watched(model, share)
                if share > allowed(kept):
                    self._enforce(model, allowed(kept), raise_it=False)
                    why = kept.tripped if kept and kept.tripped else "nobody ordered it"
                    lowered.append(
                        f"{model}: {share} thousandths are taken from the canary, {allowed(kept)} are left: {why}"
                    )
            return lowered

    def _down(self, model: str, stat: str) -> list[str]:
        """Servers of a model that take no requests, as HAProxy finds by its checks or was told."""
        servers = self._servers.get(model)
        rows = csv.DictReader(stat.removeprefix("# ").splitlines())
        return [
            row["svname"]
            for row in rows
            if servers and row["pxname"] == servers.backend and row["status"].startswith(_DOWN)
        ]

    def _lower_for_the_next_start(self) -> None:
        """What may have no share has none in the file either, with which HAProxy starts."""
        for path in self._directory.glob("*.json"):
            kept = self._kept(path.stem)
            now = watch(kept, self._means.clock(), self._means.boot) if kept else None
            if now and now != kept:
                self._keep(now)
            if allowed(now) == 0:
                with contextlib.suppress(*_WRONG):
                    self._means.set_share(path.stem, 0)

    def _watched(self, model: str, share: int) -> Kept | None:
        kept = self._kept(model)
        if kept is None:
            return None
        now = watch(kept, self._means.clock(), self._means.boot)
        if share and not now.tripped:
            reason = self._found_bad(now.order)
            now = trip(now, reason) if reason else now
        if now != kept:
            self._keep(now)
        return now

    def _found_bad(self, order: Order) -> str:
        """Why this gateway's own counts since the order say that the canary is bad, or nothing."""
        servers = self._servers.get(order.model)
        if servers is None or not servers.canary:
            return f"this gateway knows no canary of {order.model}"
        window = self._window(order, read_stat(self._means.show_stat(), self._means.process()))
        counted = gateway_counts([window], servers.backend, servers.canary)
        for name, counts in counted.items():
            verdict = judge(counts, self._settings, name, len(counted))
            if verdict.kind == BAD:
                return verdict.reason
        return ""

    def _window(self, order: Order, reading: Reading) -> Window:
        return self._windows.add((order.model, ""), order.fencing, self._means.clock(), reading)

    def _enforce(self, model: str, share: int, raise_it: bool) -> int:
        """Have HAProxy give a share, or less; what it says then."""
        present = self._means.shares().get(model, 0)
        if present > share or (raise_it and present < share):
            self._means.set_share(model, share)
            present = self._means.shares().get(model, 0)
        return present

    def _path(self, model: str) -> Path:
        return self._directory / f"{model}.json"

    def _kept(self, model: str) -> Kept | None:
        try:
            with self._path(model).open("rb") as stream:
                return from_json(stream.read(MAX_BYTES + 1))
        except FileNotFoundError:
            return None
        except OrderError as error:
            # Whatever it was, it gives no share.
            sys.stderr.write(
                f"{self._path(model)} cannot be read, and counts as no order: {error}\n"
            )
            return None

    def _keep(self, kept: Kept) -> None:
        write_file(str(self._path(kept.order.model)), to_json(kept))


def watchdog_of(settings: Gateway, boot: str) -> Watchdog:
    """Return what guards the canaries of this gateway, in the boot of this name."""
    return Watchdog(
        Path(settings.directory),
        settings.servers,
        settings.judge,
        Windows(settings.answer_seconds),
        Means(
            shares=lambda: shares_of(settings.control, settings.shares),
            set_share=lambda model, share: set_share(
                settings.control, settings.shares, model, share
            ),
            show_stat=lambda: ask(settings.control, "show stat"),
            process=lambda: process_id(settings.control),
            clock=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
            boot=boot,
        ),
        WorkerReadings(through(settings.metrics), settings.objectives, time.monotonic, _say),
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def guard(watchdog: Watchdog, interval: float, say: Callable[[str], object]) -> None:
    """Look for ever. A gateway that does not answer serves nobody; what it begins with is in the file of the shares."""
    while True:
        try:
            for line in watchdog.look():
                say(line)
        except _WRONG as error:
            say(f"the canaries cannot be looked at: {error}")
        notify("WATCHDOG=1")
        time.sleep(interval)


def read_workers(watchdog: Watchdog, interval: float, say: Callable[[str], object]) -> None:
    """Read the metrics of workers for ever; apart from what guards, which waits for no worker."""
    while True:
        try:
            watchdog.read_workers()
        except _WRONG as error:
            say(f"the workers cannot be read: {error}")
        time.sleep(interval)


def main() -> int:
    """Guard until told to stop."""
    parser = argparse.ArgumentParser(description="Guard the canaries of this gateway.")
    parser.add_argument("settings", help="JSON file that role release_rollout writes")
    parser.add_argument(
        "--boot", default="", help="name of this boot; without it the kernel is asked"
    )
    given = parser.parse_args()
    try:
        settings = read_gateway(given.settings)
        boot = given.boot or _BOOT.read_text(encoding="ascii").strip()
        watchdog = watchdog_of(settings, boot)
        server = listen(settings.socket, watchdog.take)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    # A service that cannot take orders any more ends, and is started again.
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reading = (watchdog, settings.metrics_seconds, _say)
    threading.Thread(target=read_workers, args=reading, daemon=True).start()
    notify("READY=1")
    guard(watchdog, settings.interval_seconds, _say)
    return 1
