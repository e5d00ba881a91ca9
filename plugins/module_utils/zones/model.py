# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network zones, and the flows between them: the model.

A zone is a set of networks. A flow lets connections through from one endpoint to another; everything
else is denied. An endpoint is a zone (``storage``: all addresses of its networks) or a part of one:
``storage/inference`` are the addresses in the zone of the hosts of inventory group ``inference``, and
``management/infrastructure`` is the range ``infrastructure`` that the zone itself names.

``zone_reading`` makes the matrix of what a site says, ``zone_checks`` finds what is wrong with it,
``zone_needs`` what the site's own services need of it. What a host enforces is in ``zone_rules``, and
how one asks whether it does in ``zone_evidence``.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

MANAGEMENT = "management"
ELSEWHERE = "elsewhere"  # what is in no zone
PROTOCOLS = ("tcp", "udp", "icmp", "any")
WITH_PORTS = ("tcp", "udp")
# A port that no flow may name, to ask for one that nothing is behind.
UNUSED_PORT = 9
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


def spans_of(networks: Iterable[Network]) -> tuple[Span, ...]:
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
    """Whether the flow is how the controller comes in: from the management zone, or a range of it."""
    return (
        flow.source.partition("/")[0] == MANAGEMENT
        and flow.has("tcp", port)
        and flow.protocol == "tcp"
        and (source is None or within(source, matrix.endpoints[flow.source]))
    )
