# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections without which the site does not serve: what its roles say they need, for the hosts and addresses that it has.

They do not come from the flows of the site, so one that is missing or was left out by mistake is found.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..common.findings import Finding
from .model import Address, Matrix, Network


@dataclass(frozen=True)
class Need:
    """One connection (TCP) that must be let through; ``who`` names the side that asks."""

    who: str
    source: Address
    target_host: str
    target: Address
    port: int
    why: str

    @property
    def kind(self) -> tuple[str, str, str]:
        """Needs of one kind are reported once."""
        return self.who, self.target_host, self.why

    def plain(self) -> dict[str, Any]:
        """Give it as modules take it."""
        return {
            "who": self.who,
            "source": str(self.source),
            "target_host": self.target_host,
            "target": str(self.target),
            "port": self.port,
            "why": self.why,
        }


def needs(matrix: Matrix, serves: Mapping[str, Any], target: str | None = None) -> Iterator[Need]:
    """Give every connection that the site's own services need, or those to the host ``target``.

    ``serves`` has ``flows``, those of roles without which the site does not serve (each with lists ``from`` and ``to``,
    ``ports`` and ``why``), and ``client_zones``: names of zones whose addresses are clients, and ask wherever a flow lets
    whole zones in. Those that the site does not have do not count.
    """
    for need in client_needs(matrix, serves):
        if target in (None, need.target_host):
            yield need
    for flow in serves["flows"]:
        for begin, end in itertools.product(flow["from"], flow["to"]):
            for source, answers in itertools.product(_at(matrix, begin), _at(matrix, end)):
                if target in (None, answers.host):
                    yield from _between(source, answers, flow)


def client_needs(matrix: Matrix, serves: Mapping[str, Any]) -> Iterator[Need]:
    """Give what clients need: the first, a middle and the last free address of each of their networks, to each gateway."""
    taken = {address for host in matrix.hosts for _zone, address in host.all_addresses()}
    for zone, network in _client_networks(matrix, serves):
        for source in samples(network, taken):
            yield from _of_client(matrix, serves, f"a client in {network} (zone {zone})", source)


def clients_at(
    matrix: Matrix, serves: Mapping[str, Any], sources: Iterable[Address]
) -> Iterator[Need]:
    """Give what clients at these addresses need; those that are in no network of clients need nothing."""
    for source in sources:
        for zone, network in _client_networks(matrix, serves):
            if source in network:
                yield from _of_client(matrix, serves, f"{source} (zone {zone})", source)


def _client_networks(matrix: Matrix, serves: Mapping[str, Any]) -> Iterator[tuple[str, Network]]:
    for zone in map(str, serves["client_zones"]):
        for network in matrix.zones[zone].networks if zone in matrix.zones else ():
            yield zone, network


def _of_client(
    matrix: Matrix, serves: Mapping[str, Any], who: str, source: Address
) -> Iterator[Need]:
    for flow, end in _asked_by_clients(serves):
        for answers in _at(matrix, end):
            yield from _between(Side(who, (source,)), answers, flow)


def _asked_by_clients(serves: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Give each flow that lets whole zones in, with each endpoint that it leads to."""
    for flow in serves["flows"]:
        if not all("/" in end for end in flow["from"]):
            for end in flow["to"]:
                yield flow, end


@dataclass(frozen=True)
class Side:
    """A host, or who asks, with the addresses that count."""

    host: str
    addresses: tuple[Address, ...]


def _at(matrix: Matrix, endpoint: str) -> list[Side]:
    """Give the hosts that an endpoint names, with their addresses there; a whole zone names none."""
    zone, _slash, group = endpoint.partition("/")
    return [
        Side(host.name, host.addresses.get(zone, ()))
        for host in matrix.hosts
        if group and group in host.groups
    ]


def _between(asks: Side, answers: Side, flow: Mapping[str, Any]) -> Iterator[Need]:
    if asks.host == answers.host:
        return
    for port in map(int, flow["ports"]):
        for source, target in itertools.product(asks.addresses, answers.addresses):
            if source.version == target.version and source != target:
                yield Need(asks.host, source, answers.host, target, port, str(flow["why"]))


def samples(network: Network, taken: set[Address]) -> list[Address]:
    """Give the lowest, a middle and the highest address that a client may have, in none of ``taken``."""
    low, high = int(network.network_address), int(network.broadcast_address)
    if high - low >= 3:
        low, high = low + 1, high - 1
    kind = ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address
    found: dict[Address, None] = {}
    for begin, step in ((low, 1), ((low + high) // 2, 1), (high, -1)):
        place = begin
        # No site has so many hosts side by side that it takes longer.
        while low <= place <= high and abs(place - begin) < 65536:
            if kind(place) not in taken:
                found[kind(place)] = None
                break
            place += step
    return list(found)


def need_problems(matrix: Matrix, serves: Mapping[str, Any]) -> Iterator[Finding]:
    """Find what the services need and no flow lets through, once for each kind."""
    told: set[tuple[str, str, str]] = set()
    for need in needs(matrix, serves):
        if need.kind in told or matrix.allows(need.source, need.target, "tcp", need.port):
            continue
        told.add(need.kind)
        yield Finding(
            need.who,
            f"no flow lets {need.source} reach TCP port {need.port} of {need.target_host} ({need.target}): {need.why}",
            "Add a flow to deepseek_flows, or leave network_segmentation_standard_flows on; if these are no clients, "
            "take their zone out of network_segmentation_client_zones",
        )
    yield from _unreachable(matrix, serves)


def _unreachable(matrix: Matrix, serves: Mapping[str, Any]) -> Iterator[Finding]:
    zones = [str(zone) for zone in serves["client_zones"] if zone in matrix.zones]
    asked = [(end, side) for _flow, end in _asked_by_clients(serves) for side in _at(matrix, end)]
    if asked and not zones:
        yield Finding(
            "deepseek_zones",
            f"none of the zones of clients is there ({', '.join(map(str, serves['client_zones'])) or 'none is named'}), "
            "so nobody could ask the service",
            "Add zone service, or name the zones of the clients in network_segmentation_client_zones",
        )
    for end, side in asked if zones else ():
        zone, _slash, group = end.partition("/")
        if not side.addresses:
            yield Finding(
                side.host,
                f"it is in group {group} without an address in zone {zone}, so no client could ask it",
                f"Set deepseek_zone_addresses.{zone}",
            )


def dependency_problems(
    matrix: Matrix, found: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[Finding]:
    """Find name servers, package indexes and proxies that hosts are set up to use and no flow lets them reach.

    ``found`` has for each host what module ``zone_dependencies`` gives: ``what`` (where it is configured), ``address``,
    ``protocol`` and ``port``. Addresses of the host itself need no flow.
    """
    for name, wanted in found.items():
        own = [address for _zone, address in matrix.host(name).all_addresses()]
        for item in wanted:
            target = ipaddress.ip_address(item["address"])
            if target.is_loopback or target in own:
                continue
            protocol, port = str(item["protocol"]), int(item["port"])
            if any(
                matrix.allows(source, target, protocol, port)
                for source in own
                if source.version == target.version
            ):
                continue
            yield Finding(
                name,
                f"{item['what']} is at {target}, and no flow lets the host reach {protocol} port {port} there",
                "Name it in deepseek_zones.management.ranges.infrastructure, add a flow, or change the host's configuration",
            )
