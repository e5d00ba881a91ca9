# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a matrix of zones and flows: by itself, and on the hosts as they are."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from ..common.findings import Finding
from .model import ELSEWHERE, MANAGEMENT, Matrix, Span, Zone, common, is_access, merge, within


def matrix_problems(matrix: Matrix) -> Iterator[Finding]:
    """Find what is wrong with zones, flows and hosts together."""
    yield from _overlaps(matrix.zones)
    yield from _lonely(matrix)
    yield from _members(matrix)
    yield from _useless(matrix)


def access_problems(matrix: Matrix, connections: Mapping[str, str]) -> Iterator[Finding]:
    """Find hosts that the controller would no longer reach.

    ``connections`` has for each host what it has in ``SSH_CONNECTION`` (see sshd(8)): the controller's address and port
    as the host sees them, and its own; nothing where it is not reached by SSH.
    """
    for host, text in connections.items():
        if not text.split():
            continue
        client, _client_port, server, server_port = text.split()
        source, target = (ipaddress.ip_address(side.partition("%")[0]) for side in (client, server))
        port = int(server_port)
        flow = next((flow for flow in matrix.flows if is_access(matrix, flow, port, source)), None)
        if flow is None or not within(target, matrix.endpoints[flow.target]):
            yield Finding(
                host,
                f"it would lock the controller out, which it sees come from {source} (zone {matrix.zone_of(source)}) to port "
                f"{port} of {target} (zone {matrix.zone_of(target)})",
                f"Put the controller's address into deepseek_zones.{MANAGEMENT}.ranges.controllers (and .networks), reach the host at "
                f"its address there, and keep a flow from {MANAGEMENT}/controllers to TCP port {port} of it",
            )


def interface_problems(matrix: Matrix, interfaces: Mapping[str, Any]) -> Iterator[Finding]:
    """Find interfaces of a zone with addresses that the zone does not know, and addresses that expire.

    ``interfaces`` has for each host what ``ip -json address`` says.
    """
    for host in matrix.hosts:
        own = {address: zone for zone, address in host.all_addresses()}
        for interface in interfaces.get(host.name) or ():
            entries = [
                (ipaddress.ip_address(entry["local"]), entry)
                for entry in interface.get("addr_info", ())
                if entry.get("scope") == "global" and "local" in entry
            ]
            zones = sorted({own[address] for address, _unused in entries if address in own})
            for address, entry in entries if zones else ():
                where = f"{host.name}, {interface.get('ifname')}"
                if matrix.zone_of(address) == ELSEWHERE:
                    yield Finding(
                        where,
                        f"it is in zone {', '.join(zones)} and has the address {address}, for which no zone has a rule",
                        f"Add its network to deepseek_zones.{zones[0]}.networks, or take the address from the interface",
                    )
                elif address.version == 6 and entry.get("dynamic"):
                    yield Finding(
                        where,
                        f"its address {address} comes from router advertisements, which the zones refuse",
                        "Give it a static address and a static route, and set accept_ra=0 on the interface",
                    )
                elif address in own and entry.get("dynamic"):
                    port = 67
                    if not any(
                        flow.has("udp", port) and within(address, matrix.endpoints[flow.source])
                        for flow in matrix.flows
                    ):
                        yield Finding(
                            where,
                            f"its address {address} is leased (DHCP), and no flow lets the host renew it",
                            f"Give it a static address, or add a flow to UDP port {port} of the DHCP server",
                        )


def _overlaps(zones: Mapping[str, Zone]) -> Iterator[Finding]:
    listed = sorted(
        (
            (net.version, int(net.network_address), int(net.broadcast_address), zone.name, net)
            for zone in zones.values()
            for net in zone.networks
        ),
        key=lambda item: item[:4],
    )
    for number, (version, _first, last, zone, network) in enumerate(listed):
        for other in listed[number + 1 :]:
            if other[0] != version or other[1] > last:
                break
            yield Finding(
                "deepseek_zones",
                f"{network} of zone {zone} and {other[4]} of zone {other[3]} overlap",
                "An address belongs to one zone: narrow one of them, or make it a range of the other zone",
            )


def _lonely(matrix: Matrix) -> Iterator[Finding]:
    for host in matrix.hosts:
        if not any(True for _unused in host.all_addresses()):
            yield Finding(
                host.name,
                "it is in no zone",
                "Give it deepseek_zone_addresses in a zone of deepseek_zones",
            )


def _members(matrix: Matrix) -> Iterator[Finding]:
    for zone in matrix.zones.values():
        for host in matrix.hosts:
            mine = sorted(set(zone.groups) & {*host.groups, "all"})
            if mine and not host.addresses.get(zone.name):
                yield Finding(
                    host.name,
                    f"it has no address in zone {zone.name}, whose members are the hosts of group {mine[0]}",
                    f"Set deepseek_zone_addresses.{zone.name}",
                )


def _useless(matrix: Matrix) -> Iterator[Finding]:
    own = merge(
        Span(address.version, int(address), int(address))
        for host in matrix.hosts
        for _unused, address in host.all_addresses()
    )
    for flow in matrix.flows:
        where = f"flow {flow.source} to {flow.target}, {flow.protocol} {flow.port_text}".rstrip()
        families = [
            {span.version for span in matrix.endpoints[end]} for end in (flow.source, flow.target)
        ]
        empty = [end for end in (flow.source, flow.target) if not matrix.endpoints[end]]
        if empty:
            yield Finding(
                where,
                f"{empty[0]} has no address",
                "Give hosts of the group an address in the zone, or remove the flow",
            )
        elif not families[0] & families[1]:
            yield Finding(
                where,
                "one side has IPv4 only and the other IPv6 only, so no rule could ever match",
                "Give both a network of one family",
            )
        elif not any(common(matrix.endpoints[end], own) for end in (flow.source, flow.target)):
            yield Finding(
                where,
                "no host of the inventory is on either side, so nothing would enforce it",
                "Remove it",
            )
