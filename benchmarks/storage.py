# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast a release is published, pulled, verified and repaired, against disk and processors.

    make bench-storage [ARGUMENTS="--gib 1 --rounds 3 --directory DIR --json FILE"]

Run it with nothing else on the machine, in a directory on the disk that is meant: six times
the size is needed there. Three nginx with mutual TLS are the storage hosts, aria2 pulls, all on the
loopback, so the network is no limit and one machine bears what four would. The limits are measured
in the same run: writing the same bytes to the disk, with fsync; reading them back, from the disk
and not from memory; SHA-256 on all processors. Medians.

Last, one storage host is killed during a pull, and in another pull one hangs (it takes connections
and sends nothing). What is told is the longest time in which no byte came, from that moment on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from release_host import Signer, overwrite
from rich.console import Console
from rich.table import Table
from source_hosts import Site, free_port, issue, start_nginx

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import PIECE_SIZE
from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import run_command
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import Replica
from ansible_collections.onprem.deepseek.plugins.module_utils.store.publish import publish
from ansible_collections.onprem.deepseek.plugins.module_utils.store.recipes import Plan
from ansible_collections.onprem.deepseek.plugins.module_utils.store.replica import ensure_replica
from ansible_collections.onprem.deepseek.plugins.module_utils.store.sources import https_fetcher
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import inspect_replica

ROOT = Path(__file__).resolve().parents[1]
SHARDS = 4
BLOCK = 1 << 22
HOSTS = 3
GOAL_MEMORY = 64.0
# Bytes within a look at the counters that TLS and TCP may send without any of the files.
NOISE = 50_000
LOOK = 0.02


@dataclasses.dataclass
class Row:
    """One line of the result. A ratio is against a limit or a goal; larger is better."""

    value: float
    unit: str
    against: str = ""
    ratio: float | None = None
    goal: str = ""


def timed(rounds: int, job: Callable[[], object], before: Callable[[], object]) -> float:
    """Median seconds of a job, before each of which something is made ready."""
    seconds = []
    for _round in range(rounds):
        before()
        began = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def nothing() -> None:
    """What needs no preparation."""


def write_shards(folder: Path, size: int) -> None:
    """A checkpoint of random bytes in four files."""
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"})
    )
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    weights = {}
    for number in range(SHARDS):
        name = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        weights[f"t{number}"] = name
        length = size // SHARDS
        tensor = {f"t{number}": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}
        header = json.dumps(tensor).encode()
        with (folder / name).open("wb") as stream:
            stream.write(struct.pack("<Q", len(header)) + header)
            for _block in range(length // BLOCK):
                stream.write(os.urandom(BLOCK))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def write_to_disk(path: Path, size: int) -> None:
    data = os.urandom(BLOCK)
    with path.open("wb") as stream:
        for _block in range(size // BLOCK):
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def forget(folder: Path) -> None:
    """Have the kernel keep nothing of these files in memory, so that they come from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_from_disk(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as stream:
                while stream.read(BLOCK):
                    pass


def hash_memory(size: int) -> None:
    """SHA-256 of so many bytes, on all processors at once."""
    data = os.urandom(BLOCK)
    cores = os.cpu_count() or 1

    def hash_part() -> None:
        state = hashlib.sha256()
        for _block in range(size // BLOCK // cores):
            state.update(data)

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda _core: hash_part(), range(cores)))


def children(pid: int) -> list[int]:
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def memory(pid: int) -> float:
    """MiB of a process and its children, shared pages divided among those that share them."""
    kib = 0
    for process in children(pid):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kib += int(line.split()[1])
    return kib / 1024


@contextlib.contextmanager
def storage(root: Path, size: int) -> Iterator[tuple[Site, Plan]]:
    """Three storage hosts with one release, which is published in this."""
    signer = Signer()
    write_shards(root / "import", size)
    plan = Plan(
        str(root / "source0"), "bench", "1.0.0", str(root / "import"), signer.pem, export=False
    )
    done = publish(plan, signer.tools())
    if done.release is None:
        sys.exit("nothing was published")
    for number in range(1, HOSTS):
        (root / f"source{number}").symlink_to(root / "source0")
    authority = issue(root, "ca", None)
    issue(root, "host", authority)
    ports = [free_port() for _host in range(HOSTS)]
    processes = {number: start_nginx(root, number, port) for number, port in enumerate(ports)}
    site = Site(root, signer, done.release, ports, processes)
    try:
        yield site, plan
    finally:
        for number in list(site.processes):
            for pid in children(site.processes[number].pid):
                os.kill(pid, signal.SIGCONT)
            site.stop(number)


def pull(site: Site) -> Replica:
    request = site.request(model="bench", full=True)
    credentials = site.credentials()
    found = inspect_replica(request)
    fetch = https_fetcher(credentials, 5)
    return ensure_replica(request, fetch, run_command, credentials, found)


def received() -> int:
    """Bytes that came over the loopback interface since the machine started."""
    [line] = [
        line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip()[:3] == "lo:"
    ]
    return int(line.split(":")[1].split()[0])


def stall(site: Site, size: int, how: signal.Signals) -> tuple[float, float]:
    """Longest silence and all seconds of a pull in which a host dies once a third has come."""
    shutil.rmtree(site.root / "here", ignore_errors=True)
    thread = threading.Thread(target=pull, args=(site,))
    began, start = time.perf_counter(), received()
    thread.start()
    while received() - start < size / 3 and thread.is_alive():
        time.sleep(LOOK)
    for pid in reversed(children(site.processes[1].pid)):
        os.kill(pid, how)
    longest, last, before = 0.0, time.perf_counter(), received()
    # What is hashed at the end needs no network.
    while thread.is_alive() and received() - start < size:
        time.sleep(LOOK)
        now = received()
        if now - before > NOISE:
            longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
        before = now
    thread.join()
    return longest, time.perf_counter() - began


def measure(root: Path, size: int, rounds: int) -> dict[str, Row]:
    """Everything, in the order in which it is told."""
    mib = size / (1 << 20)
    rows: dict[str, Row] = {}
    scratch, here = root / "scratch", root / "here"
    with storage(root, size) as (site, plan):
        source = root / "source0"
        write = mib / timed(
            rounds,
            lambda: write_to_disk(scratch, size),
            lambda: scratch.unlink(missing_ok=True),
        )
        scratch.unlink()
        read = mib / timed(rounds, lambda: read_from_disk(source), lambda: forget(source))
        hashing = mib / timed(rounds, lambda: hash_memory(size), nothing)
        rows["disk: write"] = Row(write, "MiB/s")
        rows["disk: read"] = Row(read, "MiB/s")
        rows["SHA-256, all processors"] = Row(hashing, "MiB/s")

        again = dataclasses.replace(plan, store=str(root / "again"))
        seconds = timed(
            rounds,
            lambda: publish(again, site.signer.tools()),
            lambda: shutil.rmtree(root / "again", ignore_errors=True),
        )
        shutil.rmtree(root / "again")
        rows["publish and sign"] = Row(mib / seconds, "MiB/s", "write", mib / seconds / write)

        def clean() -> None:
            shutil.rmtree(here, ignore_errors=True)
            forget(root / "import")

        rate = mib / timed(rounds, lambda: pull(site), clean)
        rows["pull and verify"] = Row(rate, "MiB/s", "write", rate / write, "0.8")
        used = max(memory(process.pid) for process in site.processes.values())
        rows["memory of a storage host"] = Row(used, "MiB", "goal", GOAL_MEMORY / used, "1.0")

        request = site.request(model="bench", full=True)
        rate = mib / timed(rounds, lambda: inspect_replica(request), lambda: forget(here))
        limit = min(read, hashing)
        rows["verify a copy"] = Row(rate, "MiB/s", "read or SHA-256", rate / limit, "0.8")

        def rot() -> None:
            for path in here.rglob("*.safetensors"):
                for offset in range(1000, path.stat().st_size, PIECE_SIZE):
                    overwrite(path, offset, b"rotten")

        seconds = timed(rounds, lambda: pull(site), rot)
        rows["repair it, every piece being wrong"] = Row(
            seconds / mib * 1024, "s/GiB", "write", mib / seconds / write
        )
        longest, all_seconds = stall(site, size, signal.SIGKILL)
        rows["silence when a host is killed"] = Row(longest, "s", "goal", 1 / longest, "1.0")
        rows["  the whole pull"] = Row(all_seconds, "s")
        site.processes.pop(1).wait()
        site.processes[1] = start_nginx(root, 1, site.ports[1])
        longest, all_seconds = stall(site, size, signal.SIGSTOP)
        rows["silence when a host hangs"] = Row(longest, "s", "goal", 1 / longest, "1.0")
        rows["  the whole pull then"] = Row(all_seconds, "s")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Bench of the model storage.")
    parser.add_argument("--gib", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".cache", help="on the disk that is meant"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin"
    size = int(options.gib * (1 << 30)) // (BLOCK * SHARDS) * BLOCK * SHARDS
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = measure(Path(folder), size, options.rounds)
    table = Table("measure", "value", "unit", "against", "ratio", "goal")
    for name, row in rows.items():
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(name, f"{row.value:.2f}", row.unit, row.against, ratio, row.goal)
    Console().print(table)
    if options.json:
        written = {name: dataclasses.asdict(row) for name, row in rows.items()}
        options.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
