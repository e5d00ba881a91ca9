# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pull costs with aria2, and what ranged GET requests in threads of Python would cost.

    make bench-ranged-get [ARGUMENTS="--gib 1 --rounds 3 --directory DIR"]

The storage hosts are those of storage.py: three nginx with mutual TLS on the loopback interface.
Both sides fetch the same files, write them and hash every byte. Processor seconds stand beside
seconds, since they do not depend on what else the machine does. ADR 0002 was decided by this.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import itertools
import os
import resource
import shutil
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from source_hosts import Site
from storage import HOSTS, pull, storage

READ = 1 << 20


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def fetch(site: Site, target: Path, threads: int, piece: int) -> None:
    """Fetch the large files of the first source with ranged GET requests, hashed as they come."""
    source = site.root / "source0"
    target.mkdir()
    context = ssl.create_default_context(cafile=str(site.root / "ca.pem"))
    context.load_cert_chain(site.root / "host.pem", site.root / "host.key")
    jobs = iter(
        [
            (path, target / path.name, start, min(piece, path.stat().st_size - start))
            for path in sorted(source.rglob("*.safetensors"))
            for start in range(0, path.stat().st_size, piece)
        ]
    )
    lock = threading.Lock()

    def work(number: int) -> None:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", site.ports[number % HOSTS], context=context, timeout=30
        )
        buffer = memoryview(bytearray(READ))
        while True:
            with lock:
                job = next(jobs, None)
            if job is None:
                break
            path, copy, start, length = job
            wanted = {"Range": f"bytes={start}-{start + length - 1}"}
            connection.request("GET", f"/{path.relative_to(source)}", headers=wanted)
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                raise OSError(f"{path.name}: status {answer.status}")
            digest = hashlib.sha256()
            file = os.open(copy, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                for _read in itertools.count():
                    size = answer.readinto(buffer)
                    if not size:
                        break
                    digest.update(buffer[:size])
                    os.pwrite(file, buffer[:size], start)
                    start += size
            finally:
                os.close(file)
        connection.close()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


def measure(name: str, rounds: int, job: Callable[[], object], clean: Callable[[], None]) -> float:
    seconds, processors = [], []
    for _round in range(rounds):
        clean()
        began, used = time.perf_counter(), processor_seconds()
        job()
        seconds.append(time.perf_counter() - began)
        processors.append(processor_seconds() - used)
    spent = statistics.median(processors)
    print(f"{name:<34} {statistics.median(seconds):6.2f} s, {spent:5.2f} processor seconds")
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gib", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    rounds = options.rounds
    root = Path(tempfile.mkdtemp(dir=options.directory))
    target = root / "fetched"

    def clean() -> None:
        shutil.rmtree(root / "here", ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)

    try:
        with storage(root, int(options.gib * 2**30)) as (site, _plan):
            aria2 = measure("aria2, and our verification", rounds, lambda: pull(site), clean)
            for threads, mib in ((2, 16), (3, 16), (4, 16), (3, 64)):
                spent = measure(
                    f"{threads} threads, {mib} MiB a request",
                    rounds,
                    lambda threads=threads, mib=mib: fetch(site, target, threads, mib << 20),
                    clean,
                )
                print(f"{'':<34} {aria2 / spent:6.2f} times less than aria2")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
