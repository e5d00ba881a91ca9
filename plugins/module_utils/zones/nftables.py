# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load one table of nftables so that a host that is cut off by it comes back by itself.

Only the table is touched: never ``flush ruleset``, which would take the tables of others, and never
``flush table``, which would leave old elements in its sets. Before a table is loaded, what restores the
one before is written and armed: a timer of systemd, on the host, that nobody has to reach.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..common.commands import Run

RUN_DIR = "/run/deepseek-zones"
# What a table looks like to the nft of this host, in a network namespace of its own that ends with it.
_CANONICAL = 'nft -f - && nft -s list table inet "$1"'
_COUNTER = re.compile(r"^(\s*counter )(\S+)( \{ packets )0( bytes )0( \}\s*)$", re.MULTILINE)


class NftablesError(Exception):
    """What went wrong, and what to do."""


@dataclass(frozen=True)
class Table:
    """A table of family inet, and the file that loads it when the host starts."""

    name: str
    boot_file: str
    run_dir: str = RUN_DIR

    @property
    def unit(self) -> str:
        """Name of the timer and the service that restore what was before."""
        return f"{self.name.replace('_', '-')}-revert"

    @property
    def revert_file(self) -> str:
        """What that service loads."""
        return os.path.join(self.run_dir, f"{self.name}-revert.nft")

    @property
    def record_file(self) -> str:
        """The listing that was confirmed, which the watch on the host compares with what is loaded."""
        return os.path.join(self.run_dir, f"{self.name}.confirmed")


@contextlib.contextmanager
def changing(table: Table, wanted: bool = True) -> Iterator[None]:
    """Keep the watch on the host from taking a change that is under way for one that somebody made by hand."""
    if not wanted:
        yield
        return
    os.makedirs(table.run_dir, mode=0o700, exist_ok=True)
    descriptor = os.open(
        os.path.join(table.run_dir, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def record(run: Run, table: Table) -> None:
    """Note what is loaded now as what was confirmed; forget it where there is no table."""
    now = listing(run, table)
    if now:
        os.makedirs(table.run_dir, mode=0o700, exist_ok=True)
        write(table.record_file, now)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(table.record_file)


def digest(text: str) -> str:
    """SHA-256 of a listing, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def listing(run: Run, table: Table, counted: bool = False) -> str:
    """Give the table as it is loaded, empty if there is none; with what its counters have counted if that is asked for."""
    words = ["list", "table", "inet", table.name]
    rc, out, err = run(["nft", *words] if counted else ["nft", "-s", *words], "")
    if rc and "No such file" not in err:
        raise NftablesError(f"nft cannot list table inet {table.name}: {err.strip()}")
    return "" if rc else out


def canonical(run: Run, table: Table, content: str) -> str:
    """Give the content as this host's nft would list it, without loading it here.

    Raises NftablesError with nft's own words if it is refused.
    """
    if not re.match(rf"table inet {re.escape(table.name)} \{{\n", content):
        raise NftablesError(f"the content does not begin with 'table inet {table.name} {{'")
    rc, out, err = run(["unshare", "--net", "sh", "-ec", _CANONICAL, "sh", table.name], content)
    if rc:
        raise NftablesError(f"nft refuses the ruleset: {err.strip()}")
    return out


def counters(run: Run, table: Table) -> dict[str, tuple[int, int]]:
    """Packets and bytes of every named counter of the table."""
    rc, out, _err = run(["nft", "-j", "list", "table", "inet", table.name], "")
    if rc:
        return {}
    return {
        item["counter"]["name"]: (item["counter"]["packets"], item["counter"]["bytes"])
        for item in json.loads(out)["nftables"]
        if "counter" in item
    }


def seeded(content: str, counted: Mapping[str, tuple[int, int]]) -> str:
    """Let the counters of a new table go on where those of the same name are."""

    def seed(match: re.Match[str]) -> str:
        packets, size = counted.get(match[2], (0, 0))
        return f"{match[1]}{match[2]}{match[3]}{packets}{match[4]}{size}{match[5]}"

    return _COUNTER.sub(seed, content)


def replacing(table: Table, content: str) -> str:
    """Make it one transaction that puts the content in the place of whatever the table was.

    A table that is declared may be deleted, whether it was there or not; ``destroy`` is not known to nftables 1.0.6.
    """
    return f"table inet {table.name}\ndelete table inet {table.name}\n{content}"


def pending(run: Run, table: Table) -> bool:
    """Whether a ruleset is loaded that nobody has confirmed yet."""
    for kind in ("timer", "service"):
        rc, _out, _err = run(["systemctl", "is-active", "--quiet", f"{table.unit}.{kind}"], "")
        if rc == 0:
            return True
    return False


def load(run: Run, table: Table, content: str, seconds: int) -> None:
    """Arm the timer that restores what is now, then load the content."""
    if pending(run, table):
        raise NftablesError(
            f"a ruleset that nobody has confirmed is loaded; {table.unit}.timer is about to take it back. "
            f"Run again when it has (systemctl status {table.unit}.timer)"
        )
    new = replacing(table, seeded(content, counters(run, table)))
    _must(run, ["nft", "-c", "-f", "-"], new, "nft refuses the ruleset on this host")
    _arm(run, table, seconds)
    rc, _out, err = run(["nft", "-f", "-"], new)
    if rc:
        disarm(run, table)
        raise NftablesError(f"nft did not load the ruleset, nothing was changed: {err.strip()}")


def _arm(run: Run, table: Table, seconds: int) -> None:
    rc, out, _err = run(["nft", "list", "table", "inet", table.name], "")
    before = replacing(table, "" if rc else out)
    # What is restored must be what nft reads: found out now, not when it is needed.
    _must(run, ["nft", "-c", "-f", "-"], before, "nft does not read its own listing again")
    os.makedirs(table.run_dir, mode=0o700, exist_ok=True)
    write(table.revert_file, before)
    run(["systemctl", "reset-failed", f"{table.unit}.timer", f"{table.unit}.service"], "")
    _must(
        run,
        [
            "systemd-run",
            "--quiet",
            f"--unit={table.unit}",
            f"--on-active={seconds}s",
            "--timer-property=AccuracySec=100ms",
            "--property=Description=Restores the packet filter that was there before an unconfirmed change",
            "nft",
            "-f",
            table.revert_file,
        ],
        "",
        "systemd did not arm the timer",
    )


def disarm(run: Run, table: Table) -> bool:
    """Stop the timer; whether there was one."""
    was = pending(run, table)
    if was:
        _must(
            run, ["systemctl", "stop", f"{table.unit}.timer"], "", "systemd did not stop the timer"
        )
    return was


def revert(run: Run, table: Table) -> bool:
    """Restore what was before, without waiting for the timer; whether there was something to restore."""
    if not pending(run, table):
        return False
    _must(run, ["nft", "-f", table.revert_file], "", "nft did not restore what was before")
    disarm(run, table)
    return True


def confirm(run: Run, table: Table, wanted: str) -> bool:
    """Keep what is loaded, if it is what is wanted; whether it had been waiting for this.

    Raises NftablesError if it is something else: the timer was faster, or somebody else changed it.
    """
    was = disarm(run, table)
    if listing(run, table) != wanted:
        raise NftablesError(
            f"table inet {table.name} is not what was to be confirmed; "
            + (
                "it was changed after it was loaded"
                if was
                else "it was taken back, or never loaded"
            )
        )
    return was


def write(path: str, text: str) -> None:
    """Write a file for root alone, whole or not at all."""
    directory = os.path.dirname(path)
    descriptor, name = tempfile.mkstemp(dir=directory)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def read(path: str) -> str:
    """Give the file's text, empty if there is none."""
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except FileNotFoundError:
        return ""


def _must(run: Run, argv: Sequence[str], data: str, otherwise: str) -> None:
    rc, _out, err = run(argv, data)
    if rc:
        raise NftablesError(f"{otherwise}: {err.strip() or f'exit {rc}'}")
