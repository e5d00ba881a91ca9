# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether hosts keep the zones apart: what is tried, and what the answers say."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .model import UNUSED_PORT, WITH_PORTS, Host, Matrix, Span, common, merge, within
from .probe import NO_ROUTE, REACHED


@dataclass(frozen=True)
class Probe:
    """One connection that is tried, and whether the matrix lets it through (``flow`` names how)."""

    host: str
    source: str
    source_zone: str
    target_host: str
    target: str
    target_zone: str
    protocol: str
    port: int | None
    allowed: bool
    flow: str


def probes(matrix: Matrix, host: Host, targets_per_kind: int = 8) -> list[Probe]:
    """Every connection that this host is to try: from each of its addresses to each address of other hosts.

    Tried is every port of every flow (both ends of a range), one that is in none, and ICMP echo. Hosts with
    the same groups and zones are of one kind; of each kind this many are tried, another choice from each host.
    """
    asked = _asked(matrix)
    found = []
    for other in _others(matrix, host, targets_per_kind):
        for source_zone, source in host.all_addresses():
            for target_zone, target in other.all_addresses():
                if source.version != target.version:
                    continue
                for protocol, port in asked:
                    flow = matrix.allows(source, target, protocol, port)
                    found.append(
                        Probe(
                            host.name,
                            str(source),
                            source_zone,
                            other.name,
                            str(target),
                            target_zone,
                            protocol,
                            port,
                            flow is not None,
                            flow.name if flow else "",
                        )
                    )
    return found


def _asked(matrix: Matrix) -> list[tuple[str, int | None]]:
    asked: dict[tuple[str, int | None], None] = {("icmp", None): None}
    for protocol in WITH_PORTS:
        for flow in matrix.flows:
            for ends in flow.ports if flow.protocol == protocol else ():
                asked.update(dict.fromkeys((protocol, port) for port in ends))
        asked[(protocol, UNUSED_PORT)] = None
    return list(asked)


def _others(matrix: Matrix, host: Host, targets_per_kind: int) -> list[Host]:
    kinds: dict[tuple[Any, ...], list[Host]] = {}
    names = [other.name for other in matrix.hosts]
    start = names.index(host.name)
    for other in [*matrix.hosts[start + 1 :], *matrix.hosts[:start]]:
        kinds.setdefault((frozenset(other.groups), frozenset(other.addresses)), []).append(other)
    return [other for kind in kinds.values() for other in kind[:targets_per_kind]]


def wrong(
    probes_made: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    before: Sequence[Mapping[str, Any]] | None = None,
) -> list[str]:
    """Give one line for each probe that did not come out as the matrix has it.

    With ``before``, the probes that reached their target at an earlier time, no others need do so now.
    """
    lines = []
    for probe, outcome in zip(probes_made, outcomes):
        reached = outcome == REACHED
        if reached == bool(probe["allowed"]):
            continue
        if probe["allowed"] and before is not None and dict(probe) not in before:
            continue
        rule = "denied" if reached else f"let through ({probe['flow']})"
        lines.append(f"{words(probe)} is {rule}, and was {outcome}")
    return lines


def words(probe: Mapping[str, Any]) -> str:
    """Say what was tried."""
    port = f" {probe['port']}" if probe["port"] else ""
    return (
        f"{probe['protocol']}{port} from {probe['host']} ({probe['source']}) "
        f"to {probe['target_host']} ({probe['target']})"
    )


def need_words(need: Mapping[str, Any]) -> str:
    """Say which need of the site's services is cut off."""
    return (
        f"{need['who']} ({need['source']}) is not let in to TCP port {need['port']} of {need['target_host']} "
        f"({need['target']}): {need['why']}"
    )


# The report of a whole site

FORMAT = "https://github.com/onprem-deepseek/onprem.deepseek/zones/v1"


def report(matrix: Matrix, evidence: Mapping[str, Mapping[str, Any]], made: str) -> dict[str, Any]:
    """Put what all hosts found into one document.

    ``evidence`` has for each host ``probes`` and ``outcomes``, ``namespaces`` (as zone_probe gives them), ``canaries``
    (those probes' outcomes by address), ``counters`` (packets by name, before the probes), ``default_routes``,
    ``ruleset_sha256``, ``enforced``, ``refused_needs`` (as zone_simulation gives them) of ``tried_needs`` and ``needs`` (how many
    were tried, and how many there are), ``units`` (lines of systemctl show) and ``unit_ports``. ``made`` is the time.
    """
    lines = [f"{host.name} was not asked" for host in matrix.hosts if host.name not in evidence]
    for name, found in evidence.items():
        lines += _host_lines(matrix, name, found)
    hits = {
        flow.name: sum(int(found["counters"].get(flow.name, 0)) for found in evidence.values())
        for flow in matrix.flows
    }
    return {
        "format": FORMAT,
        "made": made,
        "zones": {name: [str(net) for net in zone.networks] for name, zone in matrix.zones.items()},
        "flows": [
            {
                "name": flow.name,
                "from": flow.source,
                "to": flow.target,
                "protocol": flow.protocol,
                "ports": flow.port_text,
                "why": flow.why,
                "packets": hits[flow.name],
            }
            for flow in matrix.flows
        ],
        "never_hit": [name for name, packets in hits.items() if not packets],
        "cells": _cells(matrix, evidence),
        "hosts": {name: _host_summary(found) for name, found in evidence.items()},
        "probes": sum(len(found["outcomes"]) for found in evidence.values()),
        "wrong": lines,
    }


def _host_lines(matrix: Matrix, name: str, found: Mapping[str, Any]) -> list[str]:
    lines = wrong(found["probes"], found["outcomes"])
    if not found["enforced"]:
        lines.append(f"{name} does not enforce the rules of the zones")
    for space in found["namespaces"]:
        for probe, outcome in zip(found["probes"], space["outcomes"]):
            if outcome == REACHED:
                lines.append(
                    f"container {space['command']} (process {space['pid']}) on {name}: {words(probe)} was reached"
                )
    for need in found["refused_needs"]:
        lines.append(need_words(need) + _of_how_many(found))
    for address, outcomes in found["canaries"].items():
        if REACHED in outcomes:
            lines.append(f"{name} reached {address}, which is in no zone")
    if found["default_routes"] and not found["may_have_default_route"]:
        lines.append(f"{name} has a default route: {'; '.join(found['default_routes'])}")
    return lines + unit_problems(matrix, name, found["units"], found["unit_ports"])


def _of_how_many(found: Mapping[str, Any]) -> str:
    tried, needs = found["tried_needs"], found["needs"]
    return f" ({tried} of {needs} such connections were tried)" if tried < needs else ""


def unit_problems(
    matrix: Matrix, name: str, units: Sequence[str], ports: Sequence[int]
) -> list[str]:
    """Find addresses that a service's own unit lets in and the zones do not, or the other way round.

    ``units`` are values of ``IPAddressAllow`` of systemd units, networks with spaces between; ``ports`` are where they listen.
    """
    host = matrix.host(name)
    own = [address for _zone, address in host.all_addresses()]
    lines = []
    for value in units:
        unit = merge(
            Span(net.version, int(net.network_address), int(net.broadcast_address))
            for net in map(ipaddress.ip_network, value.split())
            if not net.is_loopback and not any(int(net.network_address) == int(a) for a in own)
        )
        zones = merge(
            span
            for flow in matrix.flows
            if any(flow.has("tcp", port) for port in ports)
            and any(within(address, matrix.endpoints[flow.target]) for address in own)
            for span in matrix.endpoints[flow.source]
        )
        if common(unit, zones) != unit:
            lines.append(
                f"{name}: a unit lets in {_written(unit)}, and the zones only {_written(zones)}"
            )
    return lines


def _written(spans: Iterable[Span]) -> str:
    return ", ".join(map(str, spans)) or "nothing"


def _cells(
    matrix: Matrix, evidence: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, int]]]:
    """Count the probes between each two zones: how many were to be let through or stopped, and how many were.

    Of those that were stopped, ``no_route`` found no way to the other zone at all.
    """
    cells: dict[str, dict[str, dict[str, int]]] = {
        source: {
            target: {"allowed": 0, "reached": 0, "denied": 0, "stopped": 0, "no_route": 0}
            for target in matrix.zones
        }
        for source in matrix.zones
    }
    for found in evidence.values():
        for probe, outcome in zip(found["probes"], found["outcomes"]):
            cell = cells[probe["source_zone"]][probe["target_zone"]]
            if probe["allowed"]:
                cell["allowed"] += 1
                cell["reached"] += outcome == REACHED
            else:
                cell["denied"] += 1
                cell["stopped"] += outcome != REACHED
                cell["no_route"] += outcome == NO_ROUTE
    return cells


def _host_summary(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ruleset_sha256": found["ruleset_sha256"],
        "enforced": found["enforced"],
        "default_routes": list(found["default_routes"]),
        "denied": {
            name: packets
            for name, packets in found["counters"].items()
            if packets and (name.startswith("denied") or name == "invalid")
        },
        "containers": [
            {
                "command": space["command"],
                "tried": len(space["outcomes"]),
                "reached": list(space["outcomes"]).count(REACHED),
            }
            for space in found["namespaces"]
        ],
        "needs": found["needs"],
        "tried_needs": found["tried_needs"],
        "refused_needs": [need_words(need) for need in found["refused_needs"]],
        "canaries": dict(found["canaries"]),
    }
