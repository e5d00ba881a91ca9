# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Take servers of a running HAProxy out of service without losing a request, and put them back.

Commands and fields are those of HAProxy's Management Guide, section 9.3 (`set server`, `show servers state`, `show stat`).
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .runtime_api import ask

POLL_SECONDS = 0.2
RUNNING = 2
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
    address: str
    port: int
    running: bool
    drained: bool
    maintained: bool
    takes_requests: bool


def servers_of(control: str, backend: str) -> dict[str, Server]:
    """Every server of a backend by name. Raises HaproxyError where HAProxy does not answer."""
    lines = ask(control, f"show servers state {backend}").splitlines()
    heads = [line for line in lines if line.startswith("# ")]
    if not heads:
        raise ServersError(
            "NO_BACKEND",
            f"{control} knows no backend {backend}: {' '.join(lines) or 'it said nothing'}",
            "apply the role gateway to this host",
        )
    names = heads[0][2:].split()
    found = {}
    for line in lines:
        values = dict(zip(names, line.split()))
        if values.get("be_name") != backend:
            continue
        running = int(values["srv_op_state"]) == RUNNING
        admin = int(values["srv_admin_state"])
        found[values["srv_name"]] = Server(
            name=values["srv_name"],
            address=values["srv_addr"],
            port=int(values["srv_port"]),
            running=running,
            drained=bool(admin & DRAINED),
            maintained=bool(admin & MAINTENANCE),
            takes_requests=running and admin == 0 and int(values["srv_uweight"]) > 0,
        )
    return found


def requests_of(control: str, backend: str, names: Sequence[str]) -> int:
    """Requests that the servers have now, waiting ones included."""
    rows = csv.DictReader(ask(control, "show stat").removeprefix("# ").splitlines())
    return sum(
        int(row["scur"] or 0) + int(row["qcur"] or 0)
        for row in rows
        if row["pxname"] == backend and row["svname"] in names
    )


def _order(control: str, backend: str, name: str, state: str) -> None:
    said = ask(control, f"set server {backend}/{name} state {state}")
    if said:
        raise ServersError(
            "REFUSED",
            f"{control} refuses to set server {backend}/{name} to {state}: {said}",
            "see the journal of deepseek-gateway.service",
        )


def drain(
    control: str, backend: str, names: Sequence[str], seconds: float, alone: bool
) -> tuple[bool, int]:
    """Send the servers no more requests, and wait up to `seconds` for those that they have.

    Returns whether something changed and how many requests were left. Raises ServersError, before anything is changed, where
    no other server takes requests and `alone` does not allow that.
    """
    known = servers_of(control, backend)
    ours = [known[name] for name in names if name in known]
    others = [name for name, server in known.items() if server.takes_requests and name not in names]
    if any(server.takes_requests for server in ours) and not others and not alone:
        raise ServersError(
            "LAST_ONE",
            f"no other server of {backend} takes requests, so that nobody would be served without "
            f"{', '.join(server.name for server in ours)}. The others: "
            f"{', '.join(sorted(known.keys() - set(names))) or 'there are none'}",
            "put another inference host into service first, or set inference_accept_interruption to true",
        )
    changed = False
    for server in ours:
        if not server.drained:
            _order(control, backend, server.name, "drain")
            changed = True
    left = 0
    if ours:
        end = time.monotonic() + seconds
        while (left := requests_of(control, backend, names)) and time.monotonic() < end:
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
    control: str, backend: str, wanted: dict[str, tuple[str, int]], seconds: float
) -> tuple[bool, list[str]]:
    """Send the servers requests again, and wait up to `seconds` until HAProxy has found them healthy.

    `wanted` has the address of each. Returns whether something changed, and the servers that HAProxy does not know at that
    address, for which there is nothing to wait. Raises ServersError where one is not found healthy in time.
    """
    known = servers_of(control, backend)
    ours = [known[name] for name in wanted if name in known]
    changed = False
    for server in ours:
        if server.drained:
            _order(control, backend, server.name, "ready")
            changed = True
    unknown = sorted(wanted.keys() - known.keys()) + elsewhere(ours, wanted)
    # what an operator has put into maintenance stays there
    waiting = [
        server.name for server in ours if not server.maintained and server.name not in unknown
    ]
    end = time.monotonic() + seconds
    while waiting:
        known = servers_of(control, backend)
        waiting = [name for name in waiting if name in known and not known[name].takes_requests]
        if waiting and time.monotonic() >= end:
            raise ServersError(
                "NOT_HEALTHY",
                f"{', '.join(waiting)} of {backend} did not become healthy within {seconds:g} seconds",
                "see the journal of deepseek-gateway.service, and what the worker answers to /readyz",
            )
        if waiting:
            time.sleep(POLL_SECONDS)
    return changed, unknown
