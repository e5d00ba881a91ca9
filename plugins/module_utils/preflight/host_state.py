# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host has that Ansible's facts do not tell: the NICs behind its addresses, how true its clock is, and the disk of its store.

Everything is read and nothing is written: files of the kernel, the clock's state, and the disk with reads that bypass the cache.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import itertools
import json
import mmap
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.host_bytes import read_text

ROOT = Path("/")
# Names of processes that keep a clock, as the kernel cuts them to 15 characters.
TIME_SERVICES = ("chronyd", "ntpd", "systemd-timesyn", "phc2sys")
# The kernel's bound for the error of a clock that nothing corrects (NTP_PHASE_LIMIT in linux/timex.h), in milliseconds.
UNSYNCHRONISED_MS = 16000.0

_BLOCK = 4 << 20
_READ_BYTES = 1 << 30
# A faster answer than this many bytes is one of a cache somewhere.
_ENOUGH_BYTES = 64 << 20
_FILES = 10000
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")


@dataclass(frozen=True)
class Nic:
    """The NIC that has an address; ``speed_mbps`` is None where it does not say it, and ``unknown`` says why."""

    address: str
    interface: str
    mtu: int
    speed_mbps: int | None
    unknown: str = ""


def nics_of(
    addresses: Mapping[str, Any], links: Sequence[Mapping[str, Any]], root: Path = ROOT
) -> dict[str, Nic | None]:
    """Find the NIC of each zone's address in what ``ip -json address`` lists; None where this host does not have it."""
    found: dict[str, Nic | None] = {}
    owners = {
        ipaddress.ip_address(info["local"]): link
        for link in links
        for info in link.get("addr_info", ())
        if "local" in info
    }
    for zone, text in addresses.items():
        link = None
        with contextlib.suppress(ValueError):
            link = owners.get(ipaddress.ip_address(str(text)))
        if link is None:
            found[zone] = None
            continue
        speed, unknown = _speed(root / "sys/class/net", link["ifname"])
        found[zone] = Nic(str(text), link["ifname"], int(link["mtu"]), speed, unknown)
    return found


def _speed(net: Path, name: str, depth: int = 0) -> tuple[int | None, str]:
    """Speed of a NIC in 10^6 bits per second, or why it is unknown.

    A VLAN or bridge is as fast as the fastest hardware below it. A bond says itself what its members have together. What has no hardware
    below it is virtual, and the speed that it may claim is no measurement.
    """
    lower = sorted(path.name[len("lower_") :] for path in (net / name).glob("lower_*"))
    if (net / name / "device").exists() or (net / name / "bonding").is_dir():
        return _claimed_speed(net / name)
    speeds = [_speed(net, one, depth + 1) for one in lower] if depth < 8 else []
    known = [speed for speed, _unknown in speeds if speed is not None]
    if known:
        return max(known), ""
    return None, speeds[0][1] if speeds else f"{name} is a virtual NIC"


def _claimed_speed(nic: Path) -> tuple[int | None, str]:
    try:
        speed = int((nic / "speed").read_text())
    except (OSError, ValueError):
        return None, f"{nic.name} has no link"
    return (speed, "") if speed > 0 else (None, f"{nic.name} does not say its speed")


# The clock


class _Timex(ctypes.Structure):
    """The beginning of struct timex (adjtimex(2)), with room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )


def clock_error_ms() -> float:
    """The kernel's bound for the error of its clock, in milliseconds (adjtimex(2) with modes 0, which only reads).

    As systemd does, it is taken for what it is without the flag STA_UNSYNC, which also keeps the kernel from setting the hardware's clock.
    Raises OSError.
    """
    timex = _Timex()
    library = ctypes.CDLL(None, use_errno=True)
    if library.adjtimex(ctypes.byref(timex)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return float(timex.maxerror) / 1000


def time_service(root: Path = ROOT) -> str:
    """Name of a process that keeps the clock, empty where none runs."""
    for comm in (root / "proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            name = read_text(comm).strip()
            if name in TIME_SERVICES:
                return name
    return ""


# The disk


@dataclass(frozen=True)
class Disk:
    """Where the store is or will be: bytes in all and free, and the rate of reading in 10^6 bytes per second.

    ``read_from`` is the file or device that was read, and ``unknown`` is why nothing was measured.
    """

    path: str
    size: int | None
    free: int | None
    read_mb_s: float | None = None
    read_from: str = ""
    unknown: str = ""


def disk_of(store: str, device: str, seconds: float, root: Path = ROOT) -> Disk:
    """Look at the file system of the store, or at the device that it will be on; with *seconds* measure how fast it is read."""
    there = _existing(Path(store))
    if device and not _is_on(there, device):
        return _empty_device(device, seconds)
    usage = os.statvfs(there)
    size, free = usage.f_blocks * usage.f_frsize, usage.f_bavail * usage.f_frsize
    if seconds <= 0:
        return Disk(str(there), size, free)
    source = _large_file(Path(store)) or _block_device(there, root)
    if not source:
        return Disk(
            str(there), size, free, unknown=f"{there} is on no block device, and has no large file"
        )
    rate, unknown = read_rate(source, seconds)
    return Disk(str(there), size, free, rate, source, unknown)


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _is_on(path: Path, device: str) -> bool:
    try:
        return os.stat(device).st_rdev == os.stat(path).st_dev
    except OSError:
        return False


def _empty_device(device: str, seconds: float) -> Disk:
    try:
        if not stat.S_ISBLK(os.stat(device).st_mode):
            return Disk(device, None, None, unknown=f"{device} is no block device")
        number = os.open(device, os.O_RDONLY)
        try:
            size = os.lseek(number, 0, os.SEEK_END)
        finally:
            os.close(number)
    except OSError as error:
        return Disk(device, None, None, unknown=f"{device}: {error.strerror}")
    rate, unknown = read_rate(device, seconds) if seconds > 0 else (None, "")
    return Disk(device, size, size, rate, device, unknown)


def _large_file(store: Path) -> str:
    """A file in the store that is large enough to be measured with, the largest of the first that are found."""
    files: Iterator[Path] = (
        Path(directory) / name
        for directory, _directories, names in os.walk(store)
        for name in names
    )
    largest, size = "", _ENOUGH_BYTES - 1
    for path in itertools.islice(files, _FILES):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size > size:
                largest, size = str(path), status.st_size
    return largest


def _block_device(path: Path, root: Path) -> str:
    """The block device of a file system (proc_pid_mountinfo(5)), empty where it is on none."""
    best = ("", "")
    for line in (root / "proc/self/mountinfo").read_bytes().split(b"\n"):
        before, _dash, after = line.partition(b" - ")
        fields, rest = before.split(b" "), after.split(b" ")
        if len(fields) < 5 or len(rest) < 2:
            continue
        point, source = _unescaped(fields[4]), _unescaped(rest[1])
        within = Path(point) == path or Path(point) in path.parents
        # a later mount hides an earlier one
        if within and len(point) >= len(best[0]):
            best = (point, source)
    try:
        is_block = stat.S_ISBLK(os.stat(best[1]).st_mode)
    except OSError:
        return ""
    return best[1] if is_block else ""


def _unescaped(field: bytes) -> str:
    """A path as the kernel writes it: space, tab, newline and backslash are octal (seq_path in fs/seq_file.c), all other bytes are the name's."""
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), field))


def read_rate(source: str, seconds: float) -> tuple[float | None, str]:
    """Read a file or device from its beginning, past the page cache; gives 10^6 bytes per second, or None and why.

    At most 1 GiB is read. O_DIRECT wants aligned memory, which an anonymous mapping is.
    """
    try:
        number = os.open(source, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        return None, f"{source} cannot be read past the cache: {error.strerror}"
    try:
        with mmap.mmap(-1, _BLOCK) as block:
            start, total = time.monotonic(), 0
            while total < _READ_BYTES and time.monotonic() - start < seconds:
                count = os.readv(number, [block])
                total += count
                if count < _BLOCK:
                    break
            taken = time.monotonic() - start
    except OSError as error:
        return None, f"{source} cannot be read: {error.strerror}"
    finally:
        os.close(number)
    if total < _BLOCK or (total < _ENOUGH_BYTES and taken < seconds):
        return None, f"{source} is too small to be measured: {total} bytes"
    return round(total / taken / 1e6, 1), ""


def links_in(text: str) -> list[Mapping[str, Any]]:
    """What ``ip -json address`` printed; raises ValueError."""
    links = json.loads(text or "[]")
    if not isinstance(links, list):
        raise ValueError("ip did not print a list")
    return links
