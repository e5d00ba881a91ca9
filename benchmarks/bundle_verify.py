# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast a bundle is verified, beside what openssl hashes and what the disk reads.

python benchmarks/bundle_verify.py BUNDLE PUBLIC_KEY
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TURNS = 5
BLOCK = 1024 * 1024


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def openssl_rate(processors: int) -> float:
    """Bytes of SHA-256 a second on all processors together, in blocks as ours are."""
    command = ["openssl", "speed", "-mr", "-elapsed", "-multi", str(processors), "-seconds", "2"]
    command += ["-bytes", str(BLOCK), "-evp", "sha256"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (total,) = [line for line in said.splitlines() if line.startswith("+F:")][-1:]
    return float(total.split(":")[-1])


def read_all(files: Sequence[Path]) -> None:
    for path in files:
        with path.open("rb", buffering=0) as stream:
            while stream.read(BLOCK):
                pass


def forget(files: Sequence[Path]) -> None:
    """Drop the files from the page cache, so that the disk is read."""
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("public_key", type=Path)
    given = parser.parse_args(arguments)
    files = [path for path in given.bundle.iterdir() if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    command = [sys.executable, str(given.bundle / "bundle_verify.pyz")]
    command += [str(given.bundle), str(given.public_key)]

    def verify() -> None:
        subprocess.run(command, check=True, capture_output=True)

    processors = len(os.sched_getaffinity(0))
    warm, hashed, cold, disk = [], [], [], []
    for _turn in range(TURNS):
        verify()
        warm.append(size / seconds(verify))
        hashed.append(openssl_rate(processors))
        forget(files)
        cold.append(size / seconds(verify))
        forget(files)
        disk.append(size / seconds(lambda: read_all(files)))
    rates = [statistics.median(each) / 1e9 for each in (warm, hashed, cold, disk)]
    print(f"{size} bytes, {processors} processors, medians of {TURNS} turns")
    print(f"from memory: {rates[0]:.2f} GB/s, openssl speed sha256 {rates[1]:.2f} GB/s,", end=" ")
    print(f"ratio {rates[0] / rates[1]:.2f}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    verify()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    print(f"processor seconds of one verification: {spent:.2f}, {size / spent / 1e9:.2f} GB each")
    print(f"from the disk: {rates[2]:.2f} GB/s, reading alone {rates[3]:.2f} GB/s,", end=" ")
    print(f"ratio {rates[2] / rates[3]:.2f}")


if __name__ == "__main__":
    main()
