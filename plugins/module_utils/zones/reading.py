# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a site says of its zones and flows, made into a matrix, with everything that is wrong with it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..common.findings import Finding
from .checks import matrix_problems
from .model import (
    ELSEWHERE,
    MANAGEMENT,
    PROTOCOLS,
    UNUSED_PORT,
    WITH_PORTS,
    Address,
    Flow,
    Host,
    Matrix,
    Network,
    Span,
    Zone,
    merge,
    spans_of,
)

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_ENDPOINT = re.compile(r"([a-z][a-z0-9_-]{0,30})(?:/([A-Za-z0-9_][A-Za-z0-9_.-]{0,62}))?")

# What a flow has; those of roles have more.
_FLOW = ("from", "to", "protocol", "ports", "why")


def read(site: Mapping[str, Any]) -> tuple[Matrix, list[Finding]]:
    """Read what the site says. What cannot be read is left out of the matrix and is in the problems.

    ``site`` has ``zones``, ``flows``, ``groups`` (all groups of the inventory), ``hosts`` (for each its name, groups,
    addresses by zone, and IPv6 addresses by zone), and perhaps ``standard``: flows that count as far as the site has
    zones, ranges and hosts for them. Raises KeyError or TypeError where that is not so.
    """
    found: list[Finding] = []
    groups = {*map(str, site["groups"]), "all"}
    zones = _read_zones(site["zones"], groups, found)
    hosts = [_read_host(row, zones, found) for row in site["hosts"]]
    endpoints = {name: spans_of(zone.networks) for name, zone in zones.items()}
    flows: dict[Flow, None] = {}
    for flow in _standard(site.get("standard") or (), zones, hosts, groups, found):
        flows[flow] = None
    listed = site["flows"]
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        found.append(Finding("deepseek_flows", "it is not a list", "List the flows"))
        listed = []
    for number, item in enumerate(listed, 1):
        where = f"deepseek_flows[{number}]"
        flows.update(dict.fromkeys(_read_flow(where, item, zones, groups, found)))
    for flow in flows:
        for endpoint in (flow.source, flow.target):
            endpoints.setdefault(endpoint, _resolve(endpoint, zones, hosts))
    matrix = Matrix(zones, tuple(flows), tuple(hosts), endpoints)
    found += matrix_problems(matrix)
    return matrix, found


def _standard(
    listed: Iterable[Mapping[str, Any]],
    zones: Mapping[str, Zone],
    hosts: Sequence[Host],
    groups: set[str],
    found: list[Finding],
) -> Iterator[Flow]:
    """Give the standard flows between the endpoints that the site has; one that it does not have leaves the others."""
    for number, item in enumerate(listed, 1):
        known = {
            side: [end for end in _listed(item.get(side)) if not _unknown(end, zones, groups)]
            for side in ("from", "to")
        }
        if not all(known.values()):
            continue
        where = f"standard flow {number}"
        read_of = {**{key: item[key] for key in _FLOW if key in item}, **known}
        for flow in _read_flow(where, read_of, zones, groups, found):
            ends = [_resolve(end, zones, hosts) for end in (flow.source, flow.target)]
            if all(ends) and {span.version for span in ends[0]} & {
                span.version for span in ends[1]
            }:
                yield flow


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value or [])


def _unknown(endpoint: Any, zones: Mapping[str, Zone], groups: set[str]) -> bool:
    return any(True for _problem in _endpoint_problems("", endpoint, zones, groups))


def _read_zones(zones: Any, groups: set[str], found: list[Finding]) -> dict[str, Zone]:
    if not isinstance(zones, Mapping):
        found.append(
            Finding("deepseek_zones", "it is not a mapping", "Map each zone to its networks")
        )
        return {}
    known = {}
    for name, item in zones.items():
        where = f"deepseek_zones.{name}"
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == ELSEWHERE:
            found.append(
                Finding(
                    where, "this is no name for a zone", "Use lower-case letters, digits, - and _"
                )
            )
            continue
        if not isinstance(item, Mapping) or not item.get("networks"):
            found.append(Finding(where, "it has no networks", "List them in networks"))
            continue
        for key in sorted(set(map(str, item)) - {"networks", "ranges", "groups"}):
            found.append(
                Finding(
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
                        Finding(
                            f"{where}.ranges.{label}",
                            f"{network} is in none of the zone's networks",
                            "Correct it",
                        )
                    )
        wanted = item.get("groups") or []
        for group in wanted:
            if group not in groups:
                found.append(
                    Finding(
                        f"{where}.groups", f"the inventory has no group {group!r}", "Correct it"
                    )
                )
        known[name] = Zone(name, networks, ranges, tuple(map(str, wanted)))
    if MANAGEMENT not in known:
        found.append(
            Finding(
                "deepseek_zones",
                f"there is no zone {MANAGEMENT}",
                "It is where the controller and SSH are: add it",
            )
        )
    elif not known[MANAGEMENT].ranges.get("controllers"):
        found.append(
            Finding(
                f"deepseek_zones.{MANAGEMENT}.ranges",
                "there is no range controllers",
                "List there the addresses from which Ansible comes: hosts let administration in from them only, never from each other",
            )
        )
    return known


def _read_networks(where: str, values: Any, found: list[Finding]) -> tuple[Network, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        found.append(Finding(where, f"it is {values!r}", "Write a list of networks"))
        return ()
    networks = []
    for value in values:
        try:
            networks.append(ipaddress.ip_network(str(value)))
        except ValueError:
            try:
                meant = ipaddress.ip_network(str(value), strict=False)
                found.append(
                    Finding(
                        where, f"{value} has bits set beside the network", f"Did you mean {meant}"
                    )
                )
            except ValueError:
                found.append(
                    Finding(
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


def _read_host(row: Sequence[Any], zones: Mapping[str, Zone], found: list[Finding]) -> Host:
    name, groups, *families = row
    addresses: dict[str, tuple[Address, ...]] = {}
    for variable, family in zip(
        ("deepseek_zone_addresses", "deepseek_zone_addresses_ipv6"), families
    ):
        for zone, value in (family or {}).items():
            where = f"{name}, {variable}.{zone}"
            if zone not in zones:
                found.append(
                    Finding(
                        where, "deepseek_zones has no such zone", "Add the zone, or remove this"
                    )
                )
                continue
            try:
                address = ipaddress.ip_address(str(value))
            except ValueError:
                found.append(Finding(where, f"{value!r} is not an IP address", "Correct it"))
                continue
            if not any(address in network for network in zones[zone].networks):
                networks = ", ".join(map(str, zones[zone].networks))
                found.append(
                    Finding(
                        where,
                        f"{address} is in none of the zone's networks ({networks})",
                        "Correct one of them",
                    )
                )
            addresses[zone] = (*addresses.get(zone, ()), address)
    return Host(str(name), tuple(map(str, groups or ())), addresses)


def _read_flow(
    where: str, item: Any, zones: Mapping[str, Zone], groups: set[str], found: list[Finding]
) -> Iterator[Flow]:
    if not isinstance(item, Mapping):
        found.append(
            Finding(
                where, f"it is {item!r}", "Write a mapping with from, to, protocol, ports and why"
            )
        )
        return
    where = f"{where} ({item.get('from')} to {item.get('to')})"
    before = len(found)
    for key in sorted(set(map(str, item)) - set(_FLOW)):
        found.append(
            Finding(
                where,
                f"there is no key {key!r}",
                f"The keys are {', '.join(_FLOW[:-1])} and {_FLOW[-1]}",
            )
        )
    protocol = item.get("protocol")
    if protocol not in PROTOCOLS:
        found.append(
            Finding(
                where, f"its protocol is {protocol!r}", f"It must be one of {', '.join(PROTOCOLS)}"
            )
        )
    ports = _read_ports(where, item.get("ports"), protocol, found)
    if not str(item.get("why") or "").strip():
        found.append(
            Finding(where, "it does not say why it is needed", "Say so in why: auditors ask")
        )
    ends = {}
    for side in ("from", "to"):
        ends[side] = _listed(item.get(side))
        if not ends[side]:
            found.append(Finding(where, f"it has no {side}", "Name a zone, or a part of one"))
        for value in ends[side]:
            found += _endpoint_problems(f"{where}, {side}", value, zones, groups)
    if len(found) == before:
        for source in ends["from"]:
            for target in ends["to"]:
                yield Flow(source, target, str(protocol), ports, str(item["why"]).strip())


def _read_ports(
    where: str, values: Any, protocol: Any, found: list[Finding]
) -> tuple[tuple[int, int], ...]:
    if protocol in PROTOCOLS and protocol not in WITH_PORTS:
        if values:
            found.append(Finding(where, f"protocol {protocol} has no ports", "Remove them"))
        return ()
    listed = values if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    ports = []
    if not listed:
        found.append(Finding(where, "it names no port", "List its ports, or use protocol any"))
    for value in listed:
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", str(value))
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high <= 65535:
            found.append(
                Finding(
                    where,
                    f"{value!r} is no port",
                    "Ports are from 1 to 65535, single or as low-high",
                )
            )
        elif low <= UNUSED_PORT <= high and high - low < 65000:
            found.append(
                Finding(
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
) -> Iterator[Finding]:
    match = _ENDPOINT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] not in zones:
        yield Finding(
            where, f"there is no zone {value!r}", f"The zones are {', '.join(zones) or 'none'}"
        )
    elif match[2] and match[2] not in zones[match[1]].ranges and match[2] not in groups:
        yield Finding(
            where,
            f"{match[2]!r} is no range of zone {match[1]}, and no group of the inventory",
            f"Correct it, or add it to deepseek_zones.{match[1]}.ranges",
        )


def _resolve(endpoint: str, zones: Mapping[str, Zone], hosts: Sequence[Host]) -> tuple[Span, ...]:
    zone, _unused, part = endpoint.partition("/")
    if not part:
        return spans_of(zones[zone].networks)
    if part in zones[zone].ranges:
        return spans_of(zones[zone].ranges[part])
    return merge(
        Span(address.version, int(address), int(address))
        for host in hosts
        if part == "all" or part in host.groups
        for address in host.addresses.get(zone, ())
    )
