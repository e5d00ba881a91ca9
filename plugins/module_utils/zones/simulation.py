# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a table of nftables lets a client in, tried with packets and without the client.

Two network namespaces are joined by a wire: in one are the host's addresses and its table, in the other the
client's. Nothing of it can be seen on a real network, so the client may have any address.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..common.commands import Run
from .nftables import NftablesError
from .probe import Namespace, inside, probe_all

# More addresses than this would take long to set up.
MOST_NEEDS = 512
_SECONDS_TO_BEGIN = 20.0


def simulate(
    run: Run, content: str, needs: Sequence[Mapping[str, Any]], seconds: float = 1.0
) -> list[str]:
    """Give the outcome of each need (``source``, ``target``, ``port``: TCP), as :func:`zone_probe.probe_all` does.

    ``content`` is what ``nft -f`` reads. Raises NftablesError if it or an address is refused, ValueError if there
    are more than MOST_NEEDS.
    """
    if len(needs) > MOST_NEEDS:
        raise ValueError(f"{len(needs)} connections were to be simulated, {MOST_NEEDS} at most")
    with _namespace() as host, _namespace() as client:
        _join(run, host, client, needs)
        _must(run, _in(host, ["nft", "-f", "-"]), content)
        probes = [{**need, "protocol": "tcp"} for need in needs]
        outcomes: list[str] = inside(client, lambda: probe_all(probes, seconds))
        return outcomes


def sample(needs: Sequence[Mapping[str, Any]], most: int = MOST_NEEDS) -> list[Mapping[str, Any]]:
    """Give all needs, or ``most`` of them: the same each time, the lowest and the highest source of each kind and others spread between.

    Needs of one kind differ in their sources alone; kinds share ``most`` evenly, and what one does not need the others have.
    """
    if len(needs) <= most:
        return list(needs)
    kinds: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for need in needs:
        kinds.setdefault(
            (str(need.get("why", "")), str(need["target"]), int(need["port"])), []
        ).append(need)
    found: list[Mapping[str, Any]] = []
    smallest_first = sorted(kinds, key=lambda kind: (len(kinds[kind]), kind))
    for place, kind in enumerate(smallest_first):
        share = (most - len(found)) // (len(kinds) - place)
        found += _spread(sorted(kinds[kind], key=_source), share)
    return found


def _source(need: Mapping[str, Any]) -> tuple[int, int]:
    address = ipaddress.ip_address(need["source"])
    return address.version, int(address)


def _spread(needs: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    last = len(needs) - 1
    if last < most:
        return list(needs)
    return (
        [needs[last * place // (most - 1)] for place in range(most)]
        if most > 1
        else list(needs[:most])
    )


@contextlib.contextmanager
def _namespace() -> Iterator[Namespace]:
    """Give a network namespace that ends with this context."""
    with subprocess.Popen(
        ["/usr/bin/unshare", "--net", "sleep", "infinity"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as holder:
        try:
            yield Namespace(_new_inode(holder), holder.pid, "simulation")
        finally:
            holder.kill()


def _new_inode(holder: subprocess.Popen[bytes]) -> int:
    own = os.stat("/proc/self/ns/net").st_ino
    deadline = time.monotonic() + _SECONDS_TO_BEGIN
    while time.monotonic() < deadline and holder.poll() is None:
        with contextlib.suppress(OSError):
            inode = os.stat(f"/proc/{holder.pid}/ns/net").st_ino
            if inode != own:
                return inode
        time.sleep(0.01)
    raise NftablesError("a network namespace could not be made with unshare (as root)")


def _join(run: Run, host: Namespace, client: Namespace, needs: Sequence[Mapping[str, Any]]) -> None:
    here = sorted({str(need["target"]) for need in needs})
    there = sorted({str(need["source"]) for need in needs})
    wire = f"link add host0 type veth peer name client0 netns {client.pid}"
    _batch(run, host, [wire, *_addresses("host0", here, there)])
    _batch(run, client, _addresses("client0", there, here))


def _addresses(device: str, own: Sequence[str], others: Sequence[str]) -> list[str]:
    return [
        "link set lo up",
        *(f"address add {address} dev {device} nodad" for address in own if ":" in address),
        *(f"address add {address} dev {device}" for address in own if ":" not in address),
        f"link set {device} up",
        *(f"route add {address} dev {device}" for address in others),
    ]


def _batch(run: Run, namespace: Namespace, lines: Sequence[str]) -> None:
    _must(run, _in(namespace, ["ip", "-batch", "-"]), "\n".join([*lines, ""]))


def _in(namespace: Namespace, argv: Sequence[str]) -> list[str]:
    return ["nsenter", f"--net=/proc/{namespace.pid}/ns/net", *argv]


def _must(run: Run, argv: Sequence[str], data: str) -> None:
    rc, _out, err = run(argv, data)
    if rc:
        raise NftablesError(f"the zones could not be simulated ({argv[2]}): {err.strip()}")
