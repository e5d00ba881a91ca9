# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything that is judged before a rollout, as one list of checks: the inventory, each host, and the network between them.

Each function gives all checks of its subject, those that are met too. :func:`checks` gives all of them, and :func:`table` the text for a terminal.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils import key_custody, minimums, site
from ansible_collections.onprem.deepseek.plugins.module_utils.network_pairs import Pair, pairs

OK, FAILED = "ok", "failed"
# What could not be judged now, and what the site does not want to be judged.
DEFERRED, SKIPPED = "deferred", "skipped"

CLOCK_SECONDS = 60
SYSTEMS = {"Debian": ("12", "13")}
ARCHITECTURES = ("x86_64",)
# The zones whose NICs carry the models and the requests.
FAST_ZONES = ("inference", "storage")
INVENTORY = "inventory"


@dataclass(frozen=True)
class Check:
    """One thing that was judged: where, what, whether it is met, what was found and expected, and what to do if it is not."""

    host: str
    name: str
    status: str
    found: str
    expected: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Host(site.Host):
    """What is known of one host: from the inventory, and from the host itself.

    ``asked`` is whether the inventory says how to reach it. ``facts`` is None when the host was not asked, or did not answer; ``error`` says
    why. ``info`` is the result of module host_info, and ``info_error`` why there is none. ``needed`` is the number of bytes that the release
    will take. ``checkpoint``, ``serving`` and ``zones`` are what others found. ``gpus`` are checks of module gpu_validate, None where it
    did not run; ``custody`` is the result of module key_custody_info; ``listen``, ``probes`` and ``transfers`` are results of module network_probe.
    """

    asked: bool = True
    facts: Mapping[str, Any] | None = None
    error: str = ""
    info: Mapping[str, Any] | None = None
    info_error: str = ""
    needed: int = 0
    checkpoint: Sequence[Mapping[str, str]] = ()
    serving: str = ""
    zones: Sequence[str] = ()
    gpus: Sequence[Mapping[str, Any]] | None = None
    custody: Mapping[str, Any] | None = None
    listen: Mapping[str, str] = field(default_factory=dict)
    probes: Sequence[Mapping[str, Any]] = ()
    transfers: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Network:
    """How the network was measured: ``off``, ``latency`` or ``full``, on which port, and how many turns of transfers there were."""

    mode: str = "latency"
    port: int = 8442
    turns: int = 0


Groups = Mapping[str, Sequence[str]]


def checks(groups: Groups, hosts: Sequence[Host], network: Network) -> list[Check]:
    """Judge everything, the inventory first and the network last."""
    least = minimums.merged(hosts[0].variables.get("deepseek_minimums") if hosts else None)
    return [
        *inventory_checks(groups, hosts),
        *zone_checks(hosts),
        *(check for host in hosts for check in host_checks(host, groups, least)),
        *mtu_checks(hosts, least),
        *network_checks(groups, hosts, network, least),
    ]


def inventory_checks(groups: Groups, hosts: Sequence[site.Host]) -> Iterator[Check]:
    """Judge what needs nothing but the inventory."""
    subjects: dict[str, Iterable[site.Problem]] = {
        "groups": site.group_problems(groups, site.only_mounted(hosts)),
        "variables": site.variable_problems(hosts),
        "addresses": site.address_problems(groups, hosts),
        "workers": (problem for host in hosts for problem in site.worker_problems(host)),
    }
    for name, problems in subjects.items():
        found = [
            Check(problem.where, name, FAILED, problem.what, "", problem.remedy)
            for problem in problems
        ]
        yield from found
        if not found:
            yield Check(INVENTORY, name, OK, "as they must be")


def zone_checks(hosts: Sequence[Host]) -> Iterator[Check]:
    """Judge zones and flows, where they are to be enforced; what is wrong with the site is said of every host alike."""
    if not hosts or hosts[0].variables.get("deepseek_zones_enforced") is not True:
        return
    said = dict.fromkeys(text for host in hosts for text in host.zones)
    for text in said:
        yield Check(INVENTORY, "zones", FAILED, text)
    if not said:
        yield Check(INVENTORY, "zones", OK, "as they must be")


# One host


def groups_of(name: str, groups: Groups) -> list[str]:
    return [group for group in minimums.GROUPS if name in groups.get(group, ())]


def host_checks(host: Host, groups: Groups, least: Mapping[str, Any]) -> Iterator[Check]:
    """Judge one host."""
    if host.facts is None:
        yield _reachable(host)
        return
    yield Check(host.name, "reachable", OK, "it answers, and sudo works")
    yield from _system_checks(host.name, host.facts)
    yield from _hardware_checks(host, groups, least)
    if host.info is None:
        yield Check(
            host.name, "host_info", FAILED, host.info_error, "", "Run module host_info by hand"
        )
    else:
        yield from _clock_checks(host.name, host.info["clock"], least)
        yield from _own_addresses(host)
        yield from _nic_checks(host.name, host.info["nics"], least)
        if set(groups_of(host.name, groups)) & set(minimums.STORE_GROUPS):
            yield from _disk_checks(host, groups, least)
        yield from _gpu_checks(host, groups)
    for problem in host.checkpoint:
        found = f"{problem['file']}: {problem['problem']}"
        expected = f"what can be published, in {host.variables.get('deepseek_checkpoint')}"
        yield Check(host.name, "checkpoint", FAILED, found, expected, _sentence(problem["remedy"]))
    if host.serving:
        yield Check(host.name, "serving_package", FAILED, host.serving)
    yield from _custody_checks(host, groups)


def _custody_checks(host: Host, groups: Groups) -> Iterator[Check]:
    for finding in key_custody.judge(host.variables, groups_of(host.name, groups), host.custody):
        name, means = finding.risk, key_custody.RISKS[finding.risk]
        if finding.present is None:
            yield Check(host.name, name, DEFERRED, finding.found)
        elif finding.present and finding.accepted:
            yield Check(host.name, name, SKIPPED, f"accepted: {finding.found}")
        else:
            remedy = f"{finding.remedy} (docs/tls.md), or add {name} to deepseek_accepted_key_risks: {means}"
            check = Check(host.name, name, "", finding.found, "that nobody can copy keys", remedy)
            yield _judge(check, not finding.present)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _reachable(host: Host) -> Check:
    if not host.asked:
        return Check(
            host.name, "reachable", DEFERRED, "the inventory gives it no management address"
        )
    return Check(
        host.name,
        "reachable",
        FAILED,
        f"it cannot be used: {host.error or 'it gave no facts'}",
        "SSH and sudo without a password",
        "Bring it up, and check address, user, SSH key and sudo with: ansible -m ansible.builtin.ping -b",
    )


def _system_checks(name: str, facts: Mapping[str, Any]) -> Iterator[Check]:
    distribution, version = facts.get("distribution"), str(facts.get("distribution_major_version"))
    supported = ", ".join(f"{one} {' or '.join(all_)}" for one, all_ in SYSTEMS.items())
    yield _judge(
        Check(name, "system", "", f"{distribution} {version}", supported, "Reinstall the host"),
        version in SYSTEMS.get(str(distribution), ()),
    )
    yield _judge(
        Check(
            name,
            "architecture",
            "",
            str(facts.get("architecture")),
            " or ".join(ARCHITECTURES),
            "Take the host out of the inventory",
        ),
        facts.get("architecture") in ARCHITECTURES,
    )
    manager = str(facts.get("service_mgr"))
    yield _judge(
        Check(name, "init", "", manager, "systemd", "Reinstall the host"), manager == "systemd"
    )


def _judge(check: Check, met: bool | None) -> Check:
    """The check with its status; None is for what the site does not want to be judged."""
    if met is None:
        return Check(check.host, check.name, SKIPPED, check.found)
    if met:
        return Check(check.host, check.name, OK, check.found, check.expected)
    return Check(check.host, check.name, FAILED, check.found, check.expected, check.remedy)


def _at_least(
    name: str,
    what: tuple[str, str],
    found: float | None,
    least: float | None,
    remedy: str,
    unknown: str = "",
) -> Check:
    """Compare a number with its minimum; *what* is the check's name and the unit. An unknown number is below every minimum."""
    check, unit = what
    says = unknown or "unknown" if found is None else f"{_number(found)} {unit}".strip()
    expected = "" if least is None else f"at least {_number(least)} {unit}".strip()
    met = None if least is None else found is not None and found >= least
    hint = f"{remedy}, or set deepseek_minimums.{check} to what you have (null: not judged)"
    return _judge(Check(name, check, "", says, expected, hint), met)


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if abs(value) >= 1 else f"{value:.3g}"


def _hardware_checks(host: Host, groups: Groups, least: Mapping[str, Any]) -> Iterator[Check]:
    mine, facts = groups_of(host.name, groups), host.facts or {}
    cpus, memory = facts.get("processor_vcpus"), facts.get("memtotal_mb")
    yield _at_least(
        host.name,
        ("cpus", ""),
        cpus,
        minimums.for_host(least, "cpus", mine),
        "Use a host with more processors",
    )
    yield _at_least(
        host.name,
        ("memory_gb", "GB"),
        # the fact is in units of 2^20 bytes
        None if memory is None else memory * 1.048576 / 1000,
        minimums.for_host(least, "memory_gb", mine),
        "Add memory",
    )


def _clock_checks(name: str, clock: Mapping[str, Any], least: Mapping[str, Any]) -> Iterator[Check]:
    offset = clock["offset_seconds"] or 0.0
    side = "ahead of" if offset > 0 else "behind"
    near = abs(offset) <= CLOCK_SECONDS
    yield _judge(
        Check(
            name,
            "clock",
            "",
            f"it is {abs(offset):.0f} s {side} the controller's"
            if not near
            else "as the controller's",
            f"within {CLOCK_SECONDS} s",
            "Set up time synchronisation: certificates are valid from the minute in which they are issued",
        ),
        near,
    )
    if not clock["service"]:
        found = "no time service runs"
    elif clock["synchronised"]:
        found = f"kept by {clock['service']} within {_number(clock['max_error_ms'])} ms"
    else:
        found = f"{clock['service']} runs and has not set the clock"
    yield _judge(
        Check(
            name,
            "clock_synchronised",
            "",
            found,
            "a time service that is synchronised",
            "Configure chrony with a time server that the host can reach, and look at it with chronyc tracking",
        ),
        None if least["clock_synchronised"] is None else clock["synchronised"],
    )


def _own_addresses(host: Host) -> Iterator[Check]:
    nics, facts = (host.info or {})["nics"], host.facts or {}
    has = [*facts.get("all_ipv4_addresses", ()), *facts.get("all_ipv6_addresses", ())]
    for zone, nic in nics.items():
        text = host.addresses.get(zone) if isinstance(host.addresses, Mapping) else None
        if not _is_address(text):
            continue
        yield _judge(
            Check(
                host.name,
                "address",
                "",
                f"it has no address {text} ({zone}), only {', '.join(sorted(has))}"
                if nic is None
                else f"{text} ({zone}) on {nic['interface']}",
                f"{text}, as deepseek_zone_addresses.{zone} says",
                "Correct the inventory, or bring the interface up",
            ),
            nic is not None,
        )


def _is_address(text: Any) -> bool:
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


def _nic_checks(name: str, nics: Mapping[str, Any], least: Mapping[str, Any]) -> Iterator[Check]:
    """Judge the NICs between the hosts, each once though it may have several addresses."""
    seen: set[str] = set()
    for zone in FAST_ZONES:
        nic = nics.get(zone)
        if not nic or nic["interface"] in seen:
            continue
        seen.add(nic["interface"])
        yield _at_least(
            name,
            ("nic_mbps", f"Mb/s ({nic['interface']}, {zone})"),
            nic["speed_mbps"],
            least["nic_mbps"],
            "Look at cable, transceiver and switch port with ethtool",
            f"unknown: {nic['unknown']}",
        )


def _disk_checks(host: Host, groups: Groups, least: Mapping[str, Any]) -> Iterator[Check]:
    mine, disk = groups_of(host.name, groups), (host.info or {})["disk"]
    size, free = disk["size"], disk["free"]
    unknown = f"unknown: {disk['unknown']}" if disk["unknown"] else "unknown: it was not measured"
    yield _at_least(
        host.name,
        ("disk_gb", f"GB ({disk['path']})"),
        None if size is None else size / 1e9,
        minimums.for_host(least, "disk_gb", mine),
        "Give the store a larger disk",
        unknown,
    )
    if free is not None:
        yield _judge(
            Check(
                host.name,
                "disk_free",
                "",
                f"{free} bytes free for the store",
                f"at least {host.needed} bytes, which the release takes",
                "Free some space or give the store a larger file system",
            ),
            free >= host.needed,
        )
    yield _at_least(
        host.name,
        ("disk_read_mb_s", f"MB/s ({disk['read_from']})" if disk["read_from"] else "MB/s"),
        disk["read_mb_s"],
        minimums.for_host(least, "disk_read_mb_s", mine),
        "Give the store a faster disk",
        unknown,
    )


def _gpu_checks(host: Host, groups: Groups) -> Iterator[Check]:
    """Judge the GPUs of an inference host whose engine needs them."""
    if (
        host.name not in groups.get("inference", ())
        or host.variables.get("deepseek_engine_flavour") not in site.GPU_FLAVOURS
    ):
        return
    gpu = (host.info or {})["gpu"]
    if host.gpus is not None:
        for judged in host.gpus:
            subject = "" if judged["subject"] == "host" else f"{judged['subject']}: "
            yield Check(
                host.name,
                f"gpu_{judged['name']}",
                OK if judged["ok"] else FAILED,
                f"{subject}{judged['detail'].rstrip('.')}",
                "",
                judged["remedy"].rstrip("."),
            )
    elif not gpu["pci"]:
        flavour = host.variables.get("deepseek_engine_flavour")
        yield Check(
            host.name,
            "gpus",
            FAILED,
            "no NVIDIA GPU on the PCI bus",
            f"GPUs, which deepseek_engine_flavour {flavour} needs",
            "Look at seat and power of the GPUs, or choose a flavour without GPUs",
        )
    elif gpu["driver"]:
        yield Check(
            host.name,
            "gpus",
            DEFERRED,
            f"{len(gpu['pci'])} on the PCI bus, driver {gpu['driver']}; they are judged once role serving_package has brought "
            "nvidia-ml-py, or now if gpu_validation_wheel names a wheel of it on the host",
        )
    elif host.variables.get("deepseek_manage_gpu_driver") is True:
        yield Check(
            host.name,
            "gpus",
            DEFERRED,
            f"{len(gpu['pci'])} on the PCI bus; they are judged once the rollout has installed the driver",
        )
    else:
        yield Check(
            host.name,
            "gpus",
            FAILED,
            f"{len(gpu['pci'])} on the PCI bus, and no NVIDIA driver is loaded",
            "a driver that is loaded",
            "Install NVIDIA's driver, or set deepseek_manage_gpu_driver to true",
        )


# Between hosts


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
            yield _judge(
                Check(
                    name,
                    "mtu",
                    "",
                    f"{mtu} ({nic['interface']}, {zone})",
                    f"{common} as in the rest of the zone"
                    if mtu != common
                    else f"at least {_number(least['mtu'] or 0)}",
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
    yield _judge(
        Check(
            where,
            "rtt_ms",
            "",
            f"median {rtt['median']} ms, min {rtt['min']}, p99 {rtt['p99']} ({zone})",
            "" if most is None else f"median below {_number(most)} ms",
            "Look at load, routes and distance between the rooms, or set deepseek_minimums.rtt_ms to what you have",
        ),
        None if most is None else rtt["median"] < most,
    )
    share, most = 100 * measured["lost"] / measured["sent"], least["loss_percent"]
    yield _judge(
        Check(
            where,
            "loss_percent",
            "",
            f"{measured['lost']} of {measured['sent']} datagrams lost ({zone})",
            "" if most is None else f"at most {_number(most)} %",
            "Look at the error counters of NICs and switch ports on the way with ip -statistics link",
        ),
        None if most is None else share <= most,
    )
    size, mtu = measured["path_mtu"], measured["mtu"]
    yield _judge(
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
    check = _at_least(
        where,
        ("bandwidth_mbps", f"Mb/s ({pair.zone})"),
        min(rate["to"], rate["from"]),
        least["bandwidth_mbps"],
        "Look at NIC speed, load and switch ports on the way",
    )
    found = f"{_number(rate['to'])} Mb/s there, {_number(rate['from'])} Mb/s back ({pair.zone})"
    return Check(check.host, check.name, check.status, found, check.expected, check.remedy)


# The report


_WIDEST = 60


def table(rows: Sequence[Check]) -> list[str]:
    """Columns of text, one line for each check; a cell that is wider than the widest column moves what follows."""
    if not rows:
        return []
    cells: list[tuple[str, ...]] = [("HOST", "CHECK", "FOUND", "EXPECTED", "REMEDY")]
    cells += [
        tuple(
            " ".join(text.split()) or "-"
            for text in (row.host, row.name, row.found, row.expected, row.remedy)
        )
        for row in rows
    ]
    columns = range(len(cells[0]) - 1)
    widths = [min(_WIDEST, max(len(line[column]) for line in cells)) for column in columns]
    return [
        "  ".join([*(line[column].ljust(widths[column]) for column in columns), line[-1]])
        for line in cells
    ]


def lines(rows: Sequence[Check], hosts: int) -> list[str]:
    """What a run says: how much is wrong, the table of it, and what was not judged."""
    failed = [row for row in rows if row.status == FAILED]
    deferred = [row for row in rows if row.status == DEFERRED]
    if failed:
        things = "thing" if len(failed) == 1 else "things"
        said = [f"{len(failed)} {things} to put right; nothing was changed.", *table(failed)]
    else:
        said = [f"{hosts} hosts and the inventory are as they must be."]
    if deferred:
        said += ["Not judged yet:"]
        said += [f"{row.host}, {row.name}: {row.found}" for row in deferred]
    return said
