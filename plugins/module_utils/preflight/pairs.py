# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which hosts send data to which, over which zone, and in which order their transfers do not disturb each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..inventory import role_exports


@dataclass(frozen=True)
class Pair:
    """Two hosts and the zone between them; no host has two pairs with the same *turn*."""

    client: str
    server: str
    zone: str
    turn: int


def pairs(groups: Mapping[str, Sequence[str]]) -> list[Pair]:
    """All pairs of hosts between which data flows, each once.

    The turns are an edge colouring of the pairs, each of which takes the first turn in which both hosts are free. Each host's peers
    come in another order, so that early turns have as many hosts in them as there can be.
    """
    busy: dict[str, set[int]] = {}
    found = []
    for client, server, zone in _links(groups):
        taken = busy.setdefault(client, set()) | busy.setdefault(server, set())
        turn = next(number for number in range(len(taken) + 1) if number not in taken)
        busy[client].add(turn)
        busy[server].add(turn)
        found.append(Pair(client, server, zone, turn))
    return found


def _links(groups: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, str]]:
    seen = set()
    for asks, answers, zone in role_exports.measured():
        clients, servers = groups.get(asks, ()), groups.get(answers, ())
        for shift in range(len(servers)):
            for place, client in enumerate(clients):
                server = servers[(place + shift) % len(servers)]
                link = (frozenset((client, server)), zone)
                if client != server and link not in seen:
                    seen.add(link)
                    yield client, server, zone


def targets(
    planned: Sequence[Pair], nics: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Pair, dict[str, Any]]]:
    """Give each pair that can be probed, as an element of ``targets`` of module network_probe.

    *nics* has what host_info found for each host, by zone; a pair of which one host has no NIC in the zone is left out.
    """
    for pair in planned:
        mine = (nics.get(pair.client) or {}).get(pair.zone)
        theirs = (nics.get(pair.server) or {}).get(pair.zone)
        if mine and theirs:
            yield (
                pair,
                {
                    "name": pair.server,
                    "zone": pair.zone,
                    "address": theirs["address"],
                    "source": mine["address"],
                    "mtu": mine["mtu"],
                },
            )
