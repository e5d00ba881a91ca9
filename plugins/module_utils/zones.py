# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network zones, and the flows between them.

A zone is a set of networks. A flow lets connections through from one endpoint to another; everything
else is denied. An endpoint is a zone (``storage``: all addresses of its networks) or a part of one:
``storage/inference`` are the addresses in the zone of the hosts of inventory group ``inference``, and
``management/infrastructure`` is the range ``infrastructure`` that the zone itself names.

:func:`read` gives the matrix and everything that is wrong with it. What a host enforces of it is in
``zone_rules``, and how one asks whether it does in ``zone_evidence``.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from ansible_collections.onprem.deepseek.plugins.module_utils.site import Problem

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

MANAGEMENT = "management"
ELSEWHERE = "elsewhere"  # what is in no zone
PROTOCOLS = ("tcp", "udp", "icmp", "any")
WITH_PORTS = ("tcp", "udp")
# A port that no flow may name, to ask for one that nothing is behind.
UNUSED_PORT = 9
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_ENDPOINT = re.compile(r"([a-z][a-z0-9_-]{0,30})(?:/([A-Za-z0-9_][A-Za-z0-9_.-]{0,62}))?")
_IDENTIFIER_BYTES = 120  # of nftables' 127


@dataclass(frozen=True, order=True)
class Span:
    """The addresses of one family (4 or 6) from first to last, both included."""

    version: int
    first: int
    last: int

    def __str__(self) -> str:
        """Give it as nftables writes an element of an interval set."""
        kind = ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address
        low, high = kind(self.first), kind(self.last)
        if self.first == self.last:
            return str(low)
        size = self.last - self.first + 1
        if size & (size - 1) == 0 and self.first % size == 0:
            return f"{low}/{low.max_prefixlen - size.bit_length() + 1}"
        return f"{low}-{high}"

    def holds(self, address: Address) -> bool:
        """Whether the address is one of them."""
        return self.version == address.version and self.first <= int(address) <= self.last


@dataclass(frozen=True)
class Zone:
    """Networks with one level of trust, named ranges in them, and the groups whose hosts are in it."""

    name: str
    networks: tuple[Network, ...] = ()
    ranges: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Host:
    """One host of the inventory, with its addresses by zone."""

    name: str
    groups: tuple[str, ...] = ()
    addresses: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)

    def all_addresses(self) -> Iterator[tuple[str, Address]]:
        """Each address with its zone."""
        for zone, addresses in self.addresses.items():
            for address in addresses:
                yield zone, address


@dataclass(frozen=True)
class Flow:
    """Connections that are let through, from one endpoint to another; ports are inclusive ranges."""

    source: str
    target: str
    protocol: str
    ports: tuple[tuple[int, int], ...] = ()
    why: str = ""

    @property
    def port_text(self) -> str:
        """The ports as people write them."""
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in self.ports)

    @property
    def name(self) -> str:
        """Name of its counter: the same whatever the order of the flows is."""
        ports = "." + self.port_text.replace(",", "_") if self.ports else ""
        return identifier(f"{self.source}..{self.target}.{self.protocol}{ports}")

    def has(self, protocol: str, port: int | None) -> bool:
        """Whether it lets this protocol and port through."""
        if self.protocol == "any":
            return True
        if self.protocol != protocol:
            return False
        return self.protocol not in WITH_PORTS or any(
            port is not None and a <= port <= b for a, b in self.ports
        )


@dataclass(frozen=True)
class Matrix:
    """All zones, flows and hosts of a site, and the addresses of every endpoint that is named."""

    zones: Mapping[str, Zone]
    flows: tuple[Flow, ...]
    hosts: tuple[Host, ...]
    endpoints: Mapping[str, tuple[Span, ...]]

    def host(self, name: str) -> Host:
        """Give the host of this name; raises KeyError without one."""
        return {host.name: host for host in self.hosts}[name]

    def allows(
        self, source: Address, target: Address, protocol: str, port: int | None
    ) -> Flow | None:
        """Give the first flow that lets a connection through, None where it is denied."""
        for flow in self.flows:
            if (
                flow.has(protocol, port)
                and within(source, self.endpoints[flow.source])
                and within(target, self.endpoints[flow.target])
            ):
                return flow
        return None

    def zone_of(self, address: Address) -> str:
        """Name of the zone that the address is in."""
        for name in self.zones:
            if within(address, self.endpoints[name]):
                return name
        return ELSEWHERE


def identifier(text: str) -> str:
    if len(text) <= _IDENTIFIER_BYTES:
        return text
    return f"{text[: _IDENTIFIER_BYTES - 9]}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"


# Reading, with everything that is wrong


def read(site: Mapping[str, Any]) -> tuple[Matrix, list[Problem]]:
    """Read what the site says. What cannot be read is left out of the matrix and is in the problems.

    ``site`` has ``zones``, ``flows``, ``groups`` (all groups of the inventory), ``hosts`` (for each its name, groups,
    addresses by zone, and IPv6 addresses by zone), and perhaps ``standard``: flows that count as far as the site has
    zones, ranges and hosts for them. Raises KeyError or TypeError where that is not so.
    """
    found: list[Problem] = []
    groups = {*map(str, site["groups"]), "all"}
    zones = _read_zones(site["zones"], groups, found)
    hosts = [_read_host(row, zones, found) for row in site["hosts"]]
    endpoints = {name: _spans(zone.networks) for name, zone in zones.items()}
    flows: dict[Flow, None] = {}
    for flow in _standard(site.get("standard") or (), zones, hosts, groups):
        flows[flow] = None
    listed = site["flows"]
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        found.append(Problem("deepseek_flows", "it is not a list", "List the flows"))
        listed = []
    for number, item in enumerate(listed, 1):
        flows.update(dict.fromkeys(_read_flow(number, item, zones, groups, found)))
    for flow in flows:
        for endpoint in (flow.source, flow.target):
            endpoints.setdefault(endpoint, _resolve(endpoint, zones, hosts))
    matrix = Matrix(zones, tuple(flows), tuple(hosts), endpoints)
    found += [*_overlaps(zones), *_lonely(matrix), *_members(matrix), *_useless(matrix)]
    return matrix, found


def _standard(
    listed: Iterable[Any], zones: Mapping[str, Zone], hosts: Sequence[Host], groups: set[str]
) -> Iterator[Flow]:
    for number, item in enumerate(listed, 1):
        for flow in _read_flow(number, item, zones, groups, []):
            ends = [_resolve(end, zones, hosts) for end in (flow.source, flow.target)]
            if all(ends) and {span.version for span in ends[0]} & {
                span.version for span in ends[1]
            }:
                yield flow


def access_problems(matrix: Matrix, connections: Mapping[str, str]) -> Iterator[Problem]:
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
            yield Problem(
                host,
                f"it would lock the controller out, which it sees come from {source} (zone {matrix.zone_of(source)}) to port "
                f"{port} of {target} (zone {matrix.zone_of(target)})",
                f"Put the controller's address into deepseek_zones.{MANAGEMENT}.networks, reach the host at its address there, and "
                f"keep a flow from {MANAGEMENT} to TCP port {port} of it",
            )


def interface_problems(matrix: Matrix, interfaces: Mapping[str, Any]) -> Iterator[Problem]:
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
                    yield Problem(
                        where,
                        f"it is in zone {', '.join(zones)} and has the address {address}, for which no zone has a rule",
                        f"Add its network to deepseek_zones.{zones[0]}.networks, or take the address from the interface",
                    )
                elif address in own and address.version == 4 and entry.get("dynamic"):
                    port = 67
                    if not any(
                        flow.has("udp", port) and within(address, matrix.endpoints[flow.source])
                        for flow in matrix.flows
                    ):
                        yield Problem(
                            where,
                            f"its address {address} is leased (DHCP), and no flow lets the host renew it",
                            f"Give it a static address, or add a flow to UDP port {port} of the DHCP server",
                        )


def _read_zones(zones: Any, groups: set[str], found: list[Problem]) -> dict[str, Zone]:
    if not isinstance(zones, Mapping):
        found.append(
            Problem("deepseek_zones", "it is not a mapping", "Map each zone to its networks")
        )
        return {}
    known = {}
    for name, item in zones.items():
        where = f"deepseek_zones.{name}"
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == ELSEWHERE:
            found.append(
                Problem(
                    where, "this is no name for a zone", "Use lower-case letters, digits, - and _"
                )
            )
            continue
        if not isinstance(item, Mapping) or not item.get("networks"):
            found.append(Problem(where, "it has no networks", "List them in networks"))
            continue
        for key in sorted(set(map(str, item)) - {"networks", "ranges", "groups"}):
            found.append(
                Problem(
                    where, f"there is no key {key!r}", "The keys are networks, ranges and groups"
                )
            )
        networks = _read_networks(f"{where}.networks", item["networks"], found)
        ranges = {}
        listed = item.get("ranges") or {}
        for label, values in listed.items() if isinstance(listed, Mapping) else ():
            ranges[str(label)] = _read_networks(f"{where}.ranges.{label}", values, found)
            for network in ranges[str(label)]:
                if not any(_inside(network, outer) for outer in networks):
                    found.append(
                        Problem(
                            f"{where}.ranges.{label}",
                            f"{network} is in none of the zone's networks",
                            "Correct it",
                        )
                    )
        wanted = item.get("groups") or []
        for group in wanted:
            if group not in groups:
                found.append(
                    Problem(
                        f"{where}.groups", f"the inventory has no group {group!r}", "Correct it"
                    )
                )
        known[name] = Zone(name, networks, ranges, tuple(map(str, wanted)))
    if MANAGEMENT not in known:
        found.append(
            Problem(
                "deepseek_zones",
                f"there is no zone {MANAGEMENT}",
                "It is where the controller and SSH are: add it",
            )
        )
    return known


def _read_networks(where: str, values: Any, found: list[Problem]) -> tuple[Network, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        found.append(Problem(where, f"it is {values!r}", "Write a list of networks"))
        return ()
    networks = []
    for value in values:
        try:
            networks.append(ipaddress.ip_network(str(value)))
        except ValueError:
            try:
                meant = ipaddress.ip_network(str(value), strict=False)
                found.append(
                    Problem(
                        where, f"{value} has bits set beside the network", f"Did you mean {meant}"
                    )
                )
            except ValueError:
                found.append(
                    Problem(
                        where,
                        f"{value!r} is not a network",
                        "Write it like 10.1.2.0/24 or fd00:1::/64",
                    )
                )
    return tuple(networks)


def _inside(inner: Network, outer: Network) -> bool:
    return (
        inner.version == outer.version
        and int(outer.network_address) <= int(inner.network_address)
        and int(inner.broadcast_address) <= int(outer.broadcast_address)
    )


def _read_host(row: Sequence[Any], zones: Mapping[str, Zone], found: list[Problem]) -> Host:
    name, groups, *families = row
    addresses: dict[str, tuple[Address, ...]] = {}
    for variable, family in zip(
        ("deepseek_zone_addresses", "deepseek_zone_addresses_ipv6"), families
    ):
        for zone, value in (family or {}).items():
            where = f"{name}, {variable}.{zone}"
            if zone not in zones:
                found.append(
                    Problem(
                        where, "deepseek_zones has no such zone", "Add the zone, or remove this"
                    )
                )
                continue
            try:
                address = ipaddress.ip_address(str(value))
            except ValueError:
                found.append(Problem(where, f"{value!r} is not an IP address", "Correct it"))
                continue
            if not any(address in network for network in zones[zone].networks):
                networks = ", ".join(map(str, zones[zone].networks))
                found.append(
                    Problem(
                        where,
                        f"{address} is in none of the zone's networks ({networks})",
                        "Correct one of them",
                    )
                )
            addresses[zone] = (*addresses.get(zone, ()), address)
    return Host(str(name), tuple(map(str, groups or ())), addresses)


def _read_flow(
    number: int, item: Any, zones: Mapping[str, Zone], groups: set[str], found: list[Problem]
) -> Iterator[Flow]:
    where = f"deepseek_flows[{number}]"
    if not isinstance(item, Mapping):
        found.append(
            Problem(
                where, f"it is {item!r}", "Write a mapping with from, to, protocol, ports and why"
            )
        )
        return
    where = f"{where} ({item.get('from')} to {item.get('to')})"
    before = len(found)
    for key in sorted(set(map(str, item)) - {"from", "to", "protocol", "ports", "why"}):
        found.append(
            Problem(
                where, f"there is no key {key!r}", "The keys are from, to, protocol, ports and why"
            )
        )
    protocol = item.get("protocol")
    if protocol not in PROTOCOLS:
        found.append(
            Problem(
                where, f"its protocol is {protocol!r}", f"It must be one of {', '.join(PROTOCOLS)}"
            )
        )
    ports = _read_ports(where, item.get("ports"), protocol, found)
    if not str(item.get("why") or "").strip():
        found.append(
            Problem(where, "it does not say why it is needed", "Say so in why: auditors ask")
        )
    ends = {}
    for side in ("from", "to"):
        values = item.get(side)
        ends[side] = [values] if isinstance(values, str) else list(values or [])
        if not ends[side]:
            found.append(Problem(where, f"it has no {side}", "Name a zone, or a part of one"))
        for value in ends[side]:
            found += _endpoint_problems(f"{where}, {side}", value, zones, groups)
    if len(found) == before:
        for source in ends["from"]:
            for target in ends["to"]:
                yield Flow(source, target, str(protocol), ports, str(item["why"]).strip())


def _read_ports(
    where: str, values: Any, protocol: Any, found: list[Problem]
) -> tuple[tuple[int, int], ...]:
    if protocol in PROTOCOLS and protocol not in WITH_PORTS:
        if values:
            found.append(Problem(where, f"protocol {protocol} has no ports", "Remove them"))
        return ()
    listed = values if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    ports = []
    if not listed:
        found.append(Problem(where, "it names no port", "List its ports, or use protocol any"))
    for value in listed:
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", str(value))
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high <= 65535:
            found.append(
                Problem(
                    where,
                    f"{value!r} is no port",
                    "Ports are from 1 to 65535, single or as low-high",
                )
            )
        elif low <= UNUSED_PORT <= high and high - low < 65000:
            found.append(
                Problem(
                    where,
                    f"port {UNUSED_PORT} (discard) is what denied pairs are probed with",
                    "Use another",
                )
            )
        else:
            ports.append((low, high))
    return tuple(sorted(set(ports)))


def _endpoint_problems(
    where: str, value: Any, zones: Mapping[str, Zone], groups: set[str]
) -> Iterator[Problem]:
    match = _ENDPOINT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] not in zones:
        yield Problem(
            where, f"there is no zone {value!r}", f"The zones are {', '.join(zones) or 'none'}"
        )
    elif match[2] and match[2] not in zones[match[1]].ranges and match[2] not in groups:
        yield Problem(
            where,
            f"{match[2]!r} is no range of zone {match[1]}, and no group of the inventory",
            f"Correct it, or add it to deepseek_zones.{match[1]}.ranges",
        )


def _resolve(endpoint: str, zones: Mapping[str, Zone], hosts: Sequence[Host]) -> tuple[Span, ...]:
    zone, _unused, part = endpoint.partition("/")
    if not part:
        return _spans(zones[zone].networks)
    if part in zones[zone].ranges:
        return _spans(zones[zone].ranges[part])
    return merge(
        Span(address.version, int(address), int(address))
        for host in hosts
        if part == "all" or part in host.groups
        for address in host.addresses.get(zone, ())
    )


def _spans(networks: Iterable[Network]) -> tuple[Span, ...]:
    return merge(
        Span(net.version, int(net.network_address), int(net.broadcast_address)) for net in networks
    )


def merge(spans: Iterable[Span]) -> tuple[Span, ...]:
    merged: list[Span] = []
    for span in sorted(spans):
        last = merged[-1] if merged else None
        if last and last.version == span.version and span.first <= last.last + 1:
            merged[-1] = Span(last.version, last.first, max(last.last, span.last))
        else:
            merged.append(span)
    return tuple(merged)


def within(address: Address, spans: Iterable[Span]) -> bool:
    return any(span.holds(address) for span in spans)


def _overlaps(zones: Mapping[str, Zone]) -> Iterator[Problem]:
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
            yield Problem(
                "deepseek_zones",
                f"{network} of zone {zone} and {other[4]} of zone {other[3]} overlap",
                "An address belongs to one zone: narrow one of them, or make it a range of the other zone",
            )


def _lonely(matrix: Matrix) -> Iterator[Problem]:
    for host in matrix.hosts:
        if not any(True for _unused in host.all_addresses()):
            yield Problem(
                host.name,
                "it is in no zone",
                "Give it deepseek_zone_addresses in a zone of deepseek_zones",
            )


def _members(matrix: Matrix) -> Iterator[Problem]:
    for zone in matrix.zones.values():
        for host in matrix.hosts:
            mine = sorted(set(zone.groups) & {*host.groups, "all"})
            if mine and not host.addresses.get(zone.name):
                yield Problem(
                    host.name,
                    f"it has no address in zone {zone.name}, whose members are the hosts of group {mine[0]}",
                    f"Set deepseek_zone_addresses.{zone.name}",
                )


def _useless(matrix: Matrix) -> Iterator[Problem]:
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
            yield Problem(
                where,
                f"{empty[0]} has no address",
                "Give hosts of the group an address in the zone, or remove the flow",
            )
        elif not families[0] & families[1]:
            yield Problem(
                where,
                "one side has IPv4 only and the other IPv6 only, so no rule could ever match",
                "Give both a network of one family",
            )
        elif not any(_touches(matrix.endpoints[end], own) for end in (flow.source, flow.target)):
            yield Problem(
                where,
                "no host of the inventory is on either side, so nothing would enforce it",
                "Remove it",
            )


def _touches(one: Sequence[Span], other: Sequence[Span]) -> bool:
    return bool(common(one, other))


def common(one: Sequence[Span], other: Sequence[Span]) -> tuple[Span, ...]:
    """Give the addresses that are in both; each of them is as :func:`merge` gives it."""
    found, mine, theirs = [], 0, 0
    while mine < len(one) and theirs < len(other):
        a, b = one[mine], other[theirs]
        if a.version == b.version and a.first <= b.last and b.first <= a.last:
            found.append(Span(a.version, max(a.first, b.first), min(a.last, b.last)))
        if (a.version, a.last) < (b.version, b.last):
            mine += 1
        else:
            theirs += 1
    return tuple(found)


def is_access(matrix: Matrix, flow: Flow, port: int, source: Address | None = None) -> bool:
    """Whether the flow is how the controller comes in."""
    return (
        flow.source.partition("/")[0] == MANAGEMENT
        and flow.has("tcp", port)
        and flow.protocol == "tcp"
        and (source is None or within(source, matrix.endpoints[flow.source]))
    )
