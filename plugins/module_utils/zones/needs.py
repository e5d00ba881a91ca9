# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections without which the site does not serve, from what its inventory means.

They come from groups, addresses and ports, and not from the flows: so a flow that is missing, or that was
left out by mistake, is found by something that does not share the mistake.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..common.findings import Finding
from .model import Address, Host, Matrix, Network


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

    ``serves`` has ``client_zones`` (names of zones whose addresses ask the gateways; those that the site does not
    have do not count), and the ports ``gateway`` and ``storage`` (one each) and ``inference`` (a list).
    """

    def asked(*groups: str) -> list[Host]:
        return [
            host for group in groups for host in _of(matrix, group) if target in (None, host.name)
        ]

    if asked("gateway"):
        for need in client_needs(matrix, serves):
            if target in (None, need.target_host):
                yield need
    workers, stores = asked("inference"), asked("storage", "release")
    for gateway in _of(matrix, "gateway") if workers else ():
        for worker in workers:
            for port in serves["inference"]:
                yield from _between(gateway, worker, "inference", int(port), "gateways ask workers")
    for group in ("inference", "storage", "release") if stores else ():
        for reader in _of(matrix, group):
            for store in stores:
                yield from _between(
                    reader, store, "storage", int(serves["storage"]), "models and wheels are read"
                )


def client_needs(matrix: Matrix, serves: Mapping[str, Any]) -> Iterator[Need]:
    """Give what clients need: the first, a middle and the last free address of each of their networks, to each gateway."""
    taken = {address for host in matrix.hosts for _zone, address in host.all_addresses()}
    for zone, network in _client_networks(matrix, serves):
        for source in samples(network, taken):
            yield from _to_gateways(matrix, serves, f"a client in {network} (zone {zone})", source)


def clients_at(
    matrix: Matrix, serves: Mapping[str, Any], sources: Iterable[Address]
) -> Iterator[Need]:
    """Give what clients at these addresses need; those that are in no network of clients need nothing."""
    for source in sources:
        for zone, network in _client_networks(matrix, serves):
            if source in network:
                yield from _to_gateways(matrix, serves, f"{source} (zone {zone})", source)


def _client_networks(matrix: Matrix, serves: Mapping[str, Any]) -> Iterator[tuple[str, Network]]:
    for zone in map(str, serves["client_zones"]):
        for network in matrix.zones[zone].networks if zone in matrix.zones else ():
            yield zone, network


def _to_gateways(
    matrix: Matrix, serves: Mapping[str, Any], who: str, source: Address
) -> Iterator[Need]:
    for gateway in _of(matrix, "gateway"):
        for target in gateway.addresses.get("service", ()):
            if target.version == source.version and target != source:
                port = int(serves["gateway"])
                why = "clients ask the gateways"
                yield Need(who, source, gateway.name, target, port, why)


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
    gateways = _of(matrix, "gateway")
    if gateways and not zones:
        yield Finding(
            "deepseek_zones",
            f"none of the zones of clients is there ({', '.join(map(str, serves['client_zones'])) or 'none is named'}), "
            "so nobody could ask the service",
            "Add zone service, or name the zones of the clients in network_segmentation_client_zones",
        )
    for gateway in gateways if zones else ():
        if not gateway.addresses.get("service"):
            yield Finding(
                gateway.name,
                "it is a gateway without an address in zone service, so no client could ask it",
                "Set deepseek_zone_addresses.service",
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


def _of(matrix: Matrix, group: str) -> list[Host]:
    return [host for host in matrix.hosts if group in host.groups]


def _between(one: Host, other: Host, zone: str, port: int, why: str) -> Iterator[Need]:
    if one.name == other.name:
        return
    for source in one.addresses.get(zone, ()):
        for target in other.addresses.get(zone, ()):
            if source.version == target.version:
                yield Need(one.name, source, other.name, target, port, why)
