# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seconds from the first failing request of a canary until it has a share nowhere, and the errors.

    PYTHONPATH=.cache/collections:tests/unit:tests/unit/plugins/gateway
        python benchmarks/canary_seconds.py [--rounds N] [--rate N] [--share PERCENT]

Two gateways with watchdogs and a release host, as processes, at the pace of the role's defaults,
and a canary for each fault and round, all at once; each model gets so many requests a second.
Errors are what its clients met; a canary that took so many requests may have cost no more. Beside
it Flagger's loop with the analysis of its documentation at the same rate, computed: it looks once a
minute (canary_peers.py).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from canary_peers import Flagger
from rollout_site import RolloutSite, request

DEFAULTS = Path(__file__).resolve().parents[1] / "roles/release_rollout/defaults/main.yml"
# What happens, the mode of the worker, and which part of the requests it touches.
FAULTS = {
    "status 503": ("503", 1.0),
    "status 500": ("500", 1.0),
    "cut answers": ("cut", 1.0),
    "503 half of the time": ("flapping", 0.5),
    "hangs": ("hang", 1.0),
}
SERVER_SECONDS = 600


def pace() -> dict[str, int]:
    """Settings of the release host as the role has them."""
    role = yaml.safe_load(DEFAULTS.read_text(encoding="utf-8"))
    names = ("lease", "settle", "interval", "answer", "watch")
    return {f"{name}_seconds": int(role[f"release_rollout_{name}_seconds"]) for name in names}


@contextlib.contextmanager
def load(site: RolloutSite, rate: float) -> Iterator[Counter[str]]:
    """So many requests a second to each model, through both gateways in turn; what clients met."""
    over, statuses = threading.Event(), Counter[str]()
    ports = [gateway.port for gateway in site.gateways.values()]

    def ask(model: str, turn: int) -> None:
        statuses[f"{model} {request(ports[turn % len(ports)], model, {})}"] += 1

    def clients(model: str, pool: ThreadPoolExecutor) -> None:
        due, turn = time.monotonic(), 0
        while not over.is_set():
            pool.submit(ask, model, turn)
            due, turn = due + 1 / rate, turn + 1
            time.sleep(max(0.0, due - time.monotonic()))

    with ThreadPoolExecutor(256) as pool:
        threads = [threading.Thread(target=clients, args=(model, pool)) for model in site.models]
        for thread in threads:
            thread.start()
        try:
            yield statuses
        finally:
            over.set()
            for thread in threads:
                thread.join()
            for canary, _stable in site.workers.values():
                canary.over.set()


def measure(site: RolloutSite, most: float) -> dict[str, float]:
    """Seconds to share 0 on all gateways, by model."""
    seconds: dict[str, float] = {}
    until = time.monotonic() + most
    while len(seconds) < len(site.models) and time.monotonic() < until:
        shares = {model: site.shares(model) for model in site.models if model not in seconds}
        now = time.monotonic()
        for model, found in shares.items():
            since = site.workers[model][0].failing_since
            if since and not any(found):
                seconds[model] = now - since
        time.sleep(0.1)
    return seconds


def one_fault(title: str, wanted: argparse.Namespace, directory: Path) -> None:
    mode, part = FAULTS[title]
    settings = pace()
    models = [f"{mode}-{number}" for number in range(wanted.rounds)]
    site = RolloutSite(directory, models, server_seconds=SERVER_SECONDS, **settings)
    try:
        site.start()
        for model in models:
            site.workers[model][0].hangs_seconds = SERVER_SECONDS
            site.begin(model, steps=str(wanted.share))
        with load(site, wanted.rate) as statuses:
            time.sleep(5)
            for model in models:
                site.workers[model][0].mode = mode
            seconds = measure(site, 180)
        report(title, part, wanted, site, seconds, statuses)
    finally:
        site.stop()


def report(
    title: str,
    part: float,
    wanted: argparse.Namespace,
    site: RolloutSite,
    seconds: dict[str, float],
    statuses: Counter[str],
) -> None:
    generator = random.Random(18)
    loops = [Flagger().run(part, wanted.rate, generator)[1] for _trial in range(100)]
    theirs = statistics.median(one for one in loops if one is not None)
    errors = [
        sum(
            count
            for name, count in statuses.items()
            if name.startswith(f"{model} ") and not name.endswith(" 200")
        )
        for model in site.models
    ]
    taken = [site.workers[model][0].taken for model in site.models]
    found = sorted(seconds.values())
    if len(found) < len(site.models):
        print(f"{title}: {len(site.models) - len(found)} of {len(site.models)} still have a share")
    if found:
        ours = statistics.median(found)
        print(
            f"{title}: median {ours:.1f} s ({found[0]:.1f} to {found[-1]:.1f}), Flagger's loop"
            f" {theirs:.0f} s, {theirs / ours:.0f} times sooner; errors of clients"
            f" {statistics.median(errors):.0f} of {statistics.median(taken):.0f} that it took",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds until a bad canary has no share.")
    parser.add_argument("--rounds", type=int, default=5, help="canaries with each fault")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second to each model")
    parser.add_argument("--share", type=int, default=5, help="percent that the canary gets")
    wanted = parser.parse_args()
    for title in FAULTS:
        with tempfile.TemporaryDirectory() as directory:
            one_fault(title, wanted, Path(directory))


if __name__ == "__main__":
    main()
