# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads by aria2c: from all sources at once, resumed, each piece checked by its hash."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..artifacts.files import ensure_directory
from ..artifacts.hashing import FileHash, worker_count
from ..artifacts.metalink import expand_metalink
from ..common.commands import Completed, Run
from .model import Credentials, ReplicaError, disk_full

# Exit status of aria2c, as in section EXIT STATUS of its manual.
_ARIA2_NO_SPACE = 9
# One aria2c has one thread, which decrypts and hashes about 200 MiB/s: so several share the files.
FILES_AT_A_TIME = 4


def _forget_progress(part: str, files: Iterable[str]) -> None:
    """Remove what aria2 noted of a download: it hashes what is there instead.

    A note that was cut off, as by a full disk or a reset, would make it fail each time.
    """
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(part, f"{path}.aria2"))


def download(
    part: str,
    wanted: Mapping[str, FileHash],
    urls: Sequence[str],
    run: Run,
    credentials: Credentials,
) -> None:
    for path, expected in wanted.items():
        full = os.path.join(part, path)
        ensure_directory(os.path.dirname(full))
        if os.path.lexists(full):
            # Sealed, as it was when it was whole. Its owner may not write to it, unless that is a root with all privileges.
            os.chmod(full, 0o644)
        if expected.size == 0:
            # aria2 has nothing to request for an empty file.
            with open(full, "wb"):
                pass
    files = {path: expected for path, expected in wanted.items() if expected.size}
    if not files:
        return
    notes = (os.path.join(part, f"{path}.aria2") for path in files)
    if any(os.path.exists(note) and os.path.getsize(note) == 0 for note in notes):
        _forget_progress(part, files)

    def pull(sources: Sequence[str], at_a_time: int, share: Mapping[str, FileHash]) -> Completed:
        with tempfile.NamedTemporaryFile(prefix="deepseek-", suffix=".meta4") as metalink:
            metalink.write(expand_metalink(share, sources))
            metalink.flush()
            return run(aria2_command(part, metalink.name, credentials, at_a_time))

    # All sources at once; then each alone, since aria2 sometimes gives up on a piece that two sources have
    # wrong before it has asked the third. What is right by then is kept.
    attempts = [list(urls)] if len(urls) == 1 else [list(urls), *([url] for url in urls)]
    for attempt in attempts:
        shares = shares_of(files, min(FILES_AT_A_TIME, worker_count(len(files))))
        one = functools.partial(pull, attempt, FILES_AT_A_TIME // len(shares))
        with ThreadPoolExecutor(len(shares)) as pool:
            ended = list(pool.map(one, shares))
        files = {
            path: files[path]
            for share, done in zip(shares, ended, strict=True)
            if done.rc
            for path in share
        }
        if not files:
            return
        _forget_progress(part, files)
        if any(done.rc == _ARIA2_NO_SPACE for done in ended):
            raise disk_full(part)
    failed = next(done for done in ended if done.rc)
    output = (failed.stderr.strip() or failed.stdout.strip()).splitlines()
    raise ReplicaError(
        f"No source has all pieces right: aria2c ended with status {failed.rc} while fetching into {part}, which is kept "
        f"for the next try. Its last words: {' | '.join(output[-12:])}"
    )


def shares_of(files: Mapping[str, FileHash], number: int) -> list[dict[str, FileHash]]:
    """Divide files into at most *number* shares of about the same bytes, none of them empty."""
    shares: list[dict[str, FileHash]] = [{} for _share in range(number)]
    sizes = [0] * number
    for path in sorted(files, key=lambda path: (-files[path].size, path)):
        least = sizes.index(min(sizes))
        shares[least][path] = files[path]
        sizes[least] += files[path].size
    return [share for share in shares if share]


def aria2_command(part: str, metalink: str, credentials: Credentials, files: int) -> list[str]:
    """The command that pulls, resumes and repairs: it hashes what is there and fetches what is wrong.

    *files* of the Metalink are fetched at the same time.
    """
    return [
        "aria2c",
        "--no-conf=true",
        "--no-netrc=true",
        f"--metalink-file={metalink}",
        f"--dir={part}",
        "--check-integrity=true",
        "--continue=true",
        "--allow-overwrite=true",
        "--auto-file-renaming=false",
        "--file-allocation=none",
        "--remote-time=false",
        "--split=6",
        "--max-connection-per-server=2",
        "--min-split-size=64M",
        f"--max-concurrent-downloads={files}",
        # A host that hangs takes connections and sends nothing: its pieces must not wait long for it.
        "--connect-timeout=3",
        "--timeout=5",
        "--max-tries=2",
        "--retry-wait=1",
        "--min-tls-version=TLSv1.3",
        "--check-certificate=true",
        f"--ca-certificate={credentials.ca}",
        f"--certificate={credentials.certificate}",
        f"--private-key={credentials.private_key}",
        "--console-log-level=warn",
        "--summary-interval=0",
        "--download-result=full",
        "--show-console-readout=false",
    ]
