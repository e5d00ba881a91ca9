# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Take servers of a running HAProxy out of service without losing a request, and put them back.

Commands and fields are those of HAProxy's Management Guide, section 9.3 (`set server`, `show servers state`, `show stat`).
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .runtime_api import ask

POLL_SECONDS = 0.2
RUNNING = 2
# What the name of a model's backend begins with.
OF_A_MODEL = "model:"
# bits of srv_admin_state: drained by the runtime socket or with the server it follows, and every kind of maintenance
DRAINED = 0x08 | 0x10
MAINTENANCE = 0x01 | 0x02 | 0x04 | 0x20 | 0x40


class ServersError(Exception):
    """The servers cannot be set to the wanted state; nothing that serves was taken out of service."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy


@dataclass(frozen=True)
class Server:
    """A server as HAProxy sees it."""

    name: str
    backend: str
    address: str
    port: int
    running: bool
    drained: bool
    maintained: bool
    weight: int
    is_canary: bool

    @property
    def is_ready(self) -> bool:
        """Whether it is healthy and neither drained nor in maintenance."""
        return self.running and not self.drained and not self.maintained

    def takes_requests(self, shares: Mapping[str, int]) -> bool:
        """Whether whatever comes to its backend may go to it: to a canary that has a share, where no other server is there."""
        if self.is_canary:
            return self.is_ready and shares.get(self.backend.removeprefix(OF_A_MODEL), 0) > 0
        return self.is_ready and self.weight > 0


def servers_of(control: str) -> dict[str, Server]:
    """Every worker by its name, which it has in one backend. Raises HaproxyError where HAProxy does not answer."""
    lines = ask(control, "show servers state").splitlines()
    heads = [line for line in lines if line.startswith("# ")]
    if not heads:
        raise ServersError(
            "NO_SERVERS",
            f"{control} shows no servers: {' '.join(lines) or 'it said nothing'}",
            "apply the role gateway to this host",
        )
    names = heads[0][2:].split()
    found = {}
    for line in lines:
        values = dict(zip(names, line.split()))
        # HOST:WORKER; the gateway's other servers are parts of itself
        if ":" not in values.get("srv_name", ""):
            continue
        running = int(values["srv_op_state"]) == RUNNING
        admin = int(values["srv_admin_state"])
        found[values["srv_name"]] = Server(
            name=values["srv_name"],
            backend=values["be_name"],
            address=values["srv_addr"],
            port=int(values["srv_port"]),
            running=running,
            drained=bool(admin & DRAINED),
            maintained=bool(admin & MAINTENANCE),
            weight=int(values["srv_uweight"]),
            is_canary=int(values["srv_iweight"]) == 0,
        )
    return found


def requests_of(control: str, names: Sequence[str]) -> int:
    """Requests that the servers have now, waiting ones included."""
    rows = csv.DictReader(ask(control, "show stat").removeprefix("# ").splitlines())
    return sum(
        int(row["scur"] or 0) + int(row["qcur"] or 0) for row in rows if row["svname"] in names
    )


def _order(control: str, server: Server, state: str) -> None:
    name = f"{server.backend}/{server.name}"
    said = ask(control, f"set server {name} state {state}")
    if said:
        raise ServersError(
            "REFUSED",
            f"{control} refuses to set server {name} to {state}: {said}",
            "see the journal of deepseek-gateway.service",
        )


def _without(
    known: dict[str, Server], leaving: Sequence[Server], shares: Mapping[str, int]
) -> None:
    """Raise unless each backend keeps a server that takes requests, of those that have one."""
    names = [server.name for server in leaving]
    taking = [server.backend for server in leaving if server.takes_requests(shares)]
    for backend in dict.fromkeys(taking):
        others = [one for one in known.values() if one.backend == backend and one.name not in names]
        if not any(one.takes_requests(shares) for one in others):
            raise ServersError(
                "LAST_ONE",
                f"no other server of {backend} takes requests, so that nobody would be served without "
                f"{', '.join(one.name for one in leaving if one.backend == backend)}. The others: "
                f"{', '.join(sorted(one.name for one in others)) or 'there are none'}",
                f"{_another(others)}, or set inference_accept_interruption to true",
            )


def _another(others: Sequence[Server]) -> str:
    """What has requests taken by another server."""
    if any(one.is_canary and one.is_ready for one in others):
        return (
            "return the canary's host to the stable version first, with nothing else changed "
            "(onprem.deepseek.release_rollback)"
        )
    return "put another inference host into service first"


def drain(
    control: str,
    names: Sequence[str],
    seconds: float,
    alone: bool,
    shares: Callable[[], Mapping[str, int]],
) -> tuple[bool, int]:
    """Send the servers no more requests, and wait up to `seconds` for those that they have.

    `shares` gives those of canaries, by model, and is asked where there are any. Returns whether something changed and how many
    requests were left. Raises ServersError, before anything is changed, where no other server of a backend takes requests and
    `alone` does not allow that.
    """
    known = servers_of(control)
    ours = [known[name] for name in names if name in known]
    if not alone:
        canaries = any(server.is_canary for server in known.values())
        _without(known, ours, shares() if canaries else {})
    changed = False
    for server in ours:
        if not server.drained:
            _order(control, server, "drain")
            changed = True
    left = 0
    if ours:
        end = time.monotonic() + seconds
        while (left := requests_of(control, names)) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
    return changed, left


def elsewhere(servers: Iterable[Server], wanted: dict[str, tuple[str, int]]) -> list[str]:
    """Servers that HAProxy looks for at another address than they have now: its configuration is older than they are."""
    return [
        server.name
        for server in servers
        if server.name in wanted and (server.address, server.port) != wanted[server.name]
    ]


def ready(
    control: str, wanted: dict[str, tuple[str, int]], seconds: float
) -> tuple[bool, list[str]]:
    """Send the servers requests again, and wait up to `seconds` until HAProxy has found them healthy.

    `wanted` has the address of each. Returns whether something changed, and the servers that HAProxy does not know at that
    address, for which there is nothing to wait. Raises ServersError where one is not found healthy in time.
    """
    known = servers_of(control)
    ours = [known[name] for name in wanted if name in known]
    changed = False
    for server in ours:
        if server.drained:
            _order(control, server, "ready")
            changed = True
    unknown = sorted(wanted.keys() - known.keys()) + elsewhere(ours, wanted)
    # what an operator has put into maintenance stays there
    waiting = [
        server.name for server in ours if not server.maintained and server.name not in unknown
    ]
    end = time.monotonic() + seconds
    while waiting:
        known = servers_of(control)
        waiting = [name for name in waiting if name in known and not known[name].is_ready]
        if waiting and time.monotonic() >= end:
            raise ServersError(
                "NOT_HEALTHY",
                f"{', '.join(waiting)} did not become healthy within {seconds:g} seconds",
                "see the journal of deepseek-gateway.service, and what the worker answers to /readyz",
            )
        if waiting:
            time.sleep(POLL_SECONDS)
    return changed, unknown
