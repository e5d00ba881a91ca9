# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What labs have of this machine, whatever their state directory: addresses, and room for hosts."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


class LabError(Exception):
    """What went wrong, with the remedy where there is one."""


@dataclass(frozen=True)
class Claim:
    """What a lab that is up has of this machine: its octet, and so many hosts."""

    folder: str
    hosts: int

    @property
    def holds(self) -> bool:
        """Whether the lab is still there: one whose state was removed by hand has nothing."""
        return Path(self.folder).is_dir()


Claims = dict[int, Claim]


def read(text: str) -> Claims:
    """Give what the labs have that are up, of all states; nothing if the text is none of ours."""
    try:
        claims = {int(octet): Claim(**one) for octet, one in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    return {octet: one for octet, one in claims.items() if one.holds}


def write(claims: Claims) -> str:
    """Make the text that read reads."""
    return json.dumps({str(octet): asdict(one) for octet, one in claims.items()})


def claim(claims: Claims, octet: int, folder: Path, hosts: int) -> None:
    """Let a lab have its addresses, if no other has them; raises LabError naming who has."""
    holder = claims.get(octet)
    if holder and holder.folder != str(folder):
        raise LabError(
            f"lab_octet {octet}: the lab in {holder.folder} is up with the addresses "
            f"10.{octet}.0.0/16; take it down, or give one of the two another lab_octet "
            "(ONPREM_LAB_OCTET for the lab of make demo)"
        )
    forget(claims, folder)
    claims[octet] = Claim(str(folder), hosts)


def forget(claims: Claims, folder: Path) -> None:
    """Let others have what the lab in this directory had."""
    for octet in [octet for octet, one in claims.items() if one.folder == str(folder)]:
        del claims[octet]


def hosts_elsewhere(claims: Claims, state: Path) -> int:
    """How many hosts there are of which this state's podman does not know."""
    return sum(one.hosts for one in claims.values() if not Path(one.folder).is_relative_to(state))


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[Claims]:
    """Wait for other labs, and give what they have of this machine, to be changed.

    One lab could end what another one has just started, and both would build the same image.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Python's files are not inherited, so daemons that are started meanwhile do not hold it.
    with path.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        claims = read(lock.read())
        try:
            yield claims
        finally:
            lock.truncate(0)
            lock.write(write(claims))
