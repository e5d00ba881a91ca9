# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What preflight judges between the hosts: the MTU of each zone, and what each pair measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .check import (
    DEFERRED,
    FAILED,
    INVENTORY,
    OK,
    SKIPPED,
    Check,
    Groups,
    Host,
    Network,
    at_least,
    judge,
    number,
)
from .pairs import Pair, pairs


def mtu_checks(hosts: Sequence[Host], least: Mapping[str, Any]) -> Iterator[Check]:
    """Judge the MTU of each NIC in a zone: the minimum, and the same as the others have."""
    zones: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for host in hosts:
        for zone, nic in ((host.info or {}).get("nics") or {}).items():
            if nic:
                zones.setdefault(zone, []).append((host.name, nic))
    for zone, members in zones.items():
        counts = Counter(nic["mtu"] for _name, nic in members)
        # the larger of two that are equally common: the smaller one breaks the larger one's packets
        common = max(counts, key=lambda mtu: (counts[mtu], mtu))
        for name, nic in members:
            mtu = nic["mtu"]
            yield judge(
                Check(
                    name,
                    "mtu",
                    "",
                    f"{mtu} ({nic['interface']}, {zone})",
                    f"{common} as in the rest of the zone"
                    if mtu != common
                    else f"at least {number(least['mtu'] or 0)}",
                    f"Set the MTU of {nic['interface']} as that of the others in zone {zone}"
                    if mtu != common
                    else f"Raise the MTU of the whole zone {zone}, its switches first, or lower deepseek_minimums.mtu",
                ),
                None if least["mtu"] is None else mtu == common and mtu >= least["mtu"],
            )


def network_checks(
    groups: Groups, hosts: Sequence[Host], network: Network, least: Mapping[str, Any]
) -> Iterator[Check]:
    """Judge what was measured between each pair of hosts, and name what was not."""
    if network.mode == "off":
        yield Check(INVENTORY, "network", SKIPPED, "not measured: preflight_network is off")
        return
    by_name = {host.name: host for host in hosts}
    for host in hosts:
        for address, why in host.listen.items():
            yield Check(
                host.name,
                "port",
                FAILED,
                f"it cannot listen on {address} port {network.port}: {why}",
                "a free port",
                "Run preflight again in a minute, when what an interrupted run has left has ended by itself, or set "
                "preflight_network_port to a free port",
            )
    for pair in pairs(groups):
        if pair.client in by_name and pair.server in by_name:
            yield from _pair_checks(
                pair, by_name[pair.client], by_name[pair.server], network, least
            )


def _pair_checks(
    pair: Pair, client: Host, server: Host, network: Network, least: Mapping[str, Any]
) -> Iterator[Check]:
    where = f"{pair.client} -> {pair.server}"
    measured = _result(client.probes, pair)
    if measured is None or measured["address"] in server.listen:
        yield Check(where, "network", DEFERRED, _why_not(pair, client, server))
        return
    if measured["problem"]:
        yield _problem(where, measured)
        return
    yield Check(where, "port", OK, f"TCP and UDP port {measured['port']} answer ({pair.zone})")
    yield from _packet_checks(where, pair.zone, measured, least)
    if network.mode == "full":
        yield _bandwidth_check(where, pair, _result(client.transfers, pair), network, least)


def _result(results: Sequence[Mapping[str, Any]], pair: Pair) -> Mapping[str, Any] | None:
    return next(
        (one for one in results if one["name"] == pair.server and one["zone"] == pair.zone), None
    )


def _why_not(pair: Pair, client: Host, server: Host) -> str:
    for host in (client, server):
        if host.facts is None:
            return f"not measured: {host.name} was not reached"
        if not ((host.info or {}).get("nics") or {}).get(pair.zone):
            return f"not measured: {host.name} has no address in zone {pair.zone}"
    if server.listen:
        return f"not measured: {server.name} could not listen"
    return "not measured: the probe gave no result"


def _problem(where: str, measured: Mapping[str, Any]) -> Check:
    port, address, source = measured["port"], measured["address"], measured["source"]
    if not measured["blocked"]:
        return Check(
            where,
            "network",
            FAILED,
            f"{source} -> {address} ({measured['zone']}): {measured['problem']}",
            "a measurement",
            "Run preflight again; if it stays so, look at both hosts",
        )
    protocol = measured["blocked"].upper()
    return Check(
        where,
        "port",
        FAILED,
        f"{protocol} {source} -> {address} port {port} ({measured['zone']}): {measured['problem']}",
        f"an answer by {protocol}",
        f"Let TCP and UDP port {port} through from {source} to {address}, in the packet filters of both hosts and between them",
    )


def _packet_checks(
    where: str, zone: str, measured: Mapping[str, Any], least: Mapping[str, Any]
) -> Iterator[Check]:
    rtt, most = measured["rtt_ms"], least["rtt_ms"]
    yield judge(
        Check(
            where,
            "rtt_ms",
            "",
            f"median {rtt['median']} ms, min {rtt['min']}, p99 {rtt['p99']} ({zone})",
            "" if most is None else f"median below {number(most)} ms",
            "Look at load, routes and distance between the rooms, or set deepseek_minimums.rtt_ms to what you have",
        ),
        None if most is None else rtt["median"] < most,
    )
    share, most = 100 * measured["lost"] / measured["sent"], least["loss_percent"]
    yield judge(
        Check(
            where,
            "loss_percent",
            "",
            f"{measured['lost']} of {measured['sent']} datagrams lost ({zone})",
            "" if most is None else f"at most {number(most)} %",
            "Look at the error counters of NICs and switch ports on the way with ip -statistics link",
        ),
        None if most is None else share <= most,
    )
    size, mtu = measured["path_mtu"], measured["mtu"]
    yield judge(
        Check(
            where,
            "path_mtu",
            "",
            f"{size or 'none'} ({zone})",
            f"{mtu}, the MTU of the NIC",
            f"Set the MTU of all NICs and switch ports between {measured['source']} and {measured['address']} to {mtu}",
        ),
        None if least["mtu"] is None else size == mtu,
    )


def _bandwidth_check(
    where: str,
    pair: Pair,
    measured: Mapping[str, Any] | None,
    network: Network,
    least: Mapping[str, Any],
) -> Check:
    if measured is None:
        return Check(
            where,
            "bandwidth_mbps",
            DEFERRED,
            f"not measured: its turn is {pair.turn + 1}, and preflight_network_turns is {network.turns}"
            if pair.turn >= network.turns
            else "not measured: the transfer gave no result",
        )
    if measured["problem"]:
        return _problem(where, measured)
    rate = measured["bandwidth_mbps"]
    check = at_least(
        where,
        ("bandwidth_mbps", f"Mb/s ({pair.zone})"),
        min(rate["to"], rate["from"]),
        least["bandwidth_mbps"],
        "Look at NIC speed, load and switch ports on the way",
    )
    found = f"{number(rate['to'])} Mb/s there, {number(rate['from'])} Mb/s back ({pair.zone})"
    return Check(check.host, check.name, check.status, found, check.expected, check.remedy)
