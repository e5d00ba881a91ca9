# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host enforces of the zones: its table for nftables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .model import ELSEWHERE, Flow, Host, Matrix, Span, common, identifier, is_access, merge

TABLE = "deepseek_zones"
# Before the filter chains of others (0): what is dropped here stays dropped, whatever they accept.
PRIORITY = -10
_COMMENT_BYTES = 120  # of nftables' 128
_FEW = 64  # addresses side by side that are still looked up one by one


@dataclass(frozen=True)
class Rule:
    """A flow as this host has it: on which of its own addresses."""

    flow: Flow
    own: tuple[Span, ...]


def rules(matrix: Matrix, host: Host) -> tuple[list[Rule], list[Rule]]:
    """Flows into the host and out of it."""
    own = merge(
        Span(address.version, int(address), int(address))
        for _unused, address in host.all_addresses()
    )
    incoming = [Rule(flow, common(own, matrix.endpoints[flow.target])) for flow in matrix.flows]
    outgoing = [Rule(flow, common(own, matrix.endpoints[flow.source])) for flow in matrix.flows]
    return [rule for rule in incoming if rule.own], [rule for rule in outgoing if rule.own]


def classes(
    endpoints: Mapping[str, tuple[Span, ...]],
) -> dict[tuple[str, ...], list[Span]]:
    """Split addresses into classes: two addresses are in one class if they are in the same endpoints.

    Every address is in one class at most, so that one look-up in one map finds what concerns it, however
    many endpoints there are.
    """
    edges: dict[tuple[int, int], tuple[set[str], set[str]]] = {}
    for name, spans in endpoints.items():
        for span in spans:
            edges.setdefault((span.version, span.first), (set(), set()))[0].add(name)
            edges.setdefault((span.version, span.last + 1), (set(), set()))[1].add(name)
    found: dict[tuple[str, ...], list[Span]] = {}
    active: dict[str, int] = {}
    places = sorted(edges)
    for place, following in zip(places, [*places[1:], None]):
        opened, closed = edges[place]
        for name in closed:
            active[name] -= 1
        for name in opened:
            active[name] = active.get(name, 0) + 1
        members = tuple(sorted(name for name, count in active.items() if count))
        if members and following is not None and following[0] == place[0]:
            found.setdefault(members, []).append(Span(place[0], place[1], following[1] - 1))
    return {members: list(merge(spans)) for members, spans in found.items()}


def counters(matrix: Matrix, host: Host) -> list[str]:
    """Names of the host's counters: one for each flow, and of what is denied by zone."""
    incoming, outgoing = rules(matrix, host)
    flows = dict.fromkeys(rule.flow.name for rule in [*incoming, *outgoing])
    zones = [*matrix.zones, ELSEWHERE]
    return [
        "access",
        *flows,
        *(f"denied-in.{zone}" for zone in zones),
        *(f"denied-out.{zone}" for zone in zones),
        "denied-forward",
        "invalid",
    ]


def ruleset(matrix: Matrix, host: Host, ssh_port: int = 22, log_per_minute: int = 30) -> str:
    """Give the host's table for ``nft -f``, every counter at zero.

    Connections are judged by their first packet's addresses (``ct original``) for as long as they live, in both
    directions: so a connection that was there before, and is denied now, ends; and one set of chains serves
    input, output and what is forwarded to containers.
    """
    incoming, outgoing = rules(matrix, host)
    networks = {name: matrix.endpoints[name] for name in matrix.zones}
    sources = classes(
        networks | {rule.flow.source: matrix.endpoints[rule.flow.source] for rule in incoming}
    )
    targets = classes(
        networks | {rule.flow.target: matrix.endpoints[rule.flow.target] for rule in outgoing}
    )
    lines = [f"table inet {TABLE} {{"]
    lines += [f"\tcounter {name} {{ packets 0 bytes 0 }}" for name in counters(matrix, host)]
    lines += _maps("source", sources, "from")
    lines += _maps("target", targets, "to")
    lines += _base_chains(matrix, incoming, ssh_port, log_per_minute)
    for members in sources:
        chosen = [rule for rule in incoming if rule.flow.source in members]
        lines += _class_chain("from", members, chosen, "daddr", "in")
    for members in targets:
        chosen = [rule for rule in outgoing if rule.flow.target in members]
        lines += _class_chain("to", members, chosen, "saddr", "out")
    for direction, word in (("in", "from"), ("out", "to")):
        for zone in [*matrix.zones, ELSEWHERE]:
            lines += _chain(
                f"denied-{direction}.{zone}",
                _denial(f"denied-{direction}.{zone}", f"{word} {zone}", log_per_minute),
            )
    return "\n".join([*lines, "}", ""])


def closed_ruleset(matrix: Matrix, host: Host, ssh_port: int = 22) -> str:
    """Give the table that stands until the host's own is loaded, and after that has failed.

    Nothing but administration and what an interface needs to come up: a host whose rules are missing or refused
    is closed, and can be repaired.
    """
    incoming, _outgoing = rules(matrix, host)
    access_in, access_out = _access(matrix, incoming, ssh_port)
    neighbours = ["ct state untracked jump neighbours"]
    lines = [f"table inet {TABLE} {{", "\tcounter access { packets 0 bytes 0 }"]
    for hook, accepted in (("input", access_in), ("output", access_out), ("forward", [])):
        lo = {"input": ['iif "lo" accept'], "output": ['oif "lo" accept'], "forward": []}[hook]
        first = f"type filter hook {hook} priority {PRIORITY}; policy drop;"
        rest = neighbours if hook != "forward" else []
        lines += _chain(hook, [first, *lo, *accepted, *rest])
    return "\n".join([*lines, *_neighbours(), "}", ""])


def _maps(name: str, groups: Mapping[tuple[str, ...], Sequence[Span]], word: str) -> list[str]:
    """Give for each family a map of single addresses, which is hashed, and one of networks, which is a tree.

    Single addresses are looked up first, so networks need not be cut around them: both maps stay small and quick.
    """
    single: dict[int, dict[Span, str]] = {4: {}, 6: {}}
    wide: dict[int, dict[Span, str]] = {4: {}, 6: {}}
    for members, spans in groups.items():
        chain = _class_name(word, members)
        for span in spans:
            if any("/" in member for member in members) and span.last - span.first < _FEW:
                for address in range(span.first, span.last + 1):
                    single[span.version][Span(span.version, address, address)] = chain
            else:
                wide[span.version][span] = chain
    lines = []
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        lines += _map(f"{name}_hosts{version}", kind, single[version], interval=False)
        lines += _map(
            f"{name}_nets{version}", kind, _filled(wide[version], single[version]), interval=True
        )
    return lines


def _filled(wide: Mapping[Span, str], single: Mapping[Span, str]) -> dict[Span, str]:
    """Join networks of one class over the single addresses between them, which are looked up before."""
    filled: dict[Span, str] = {}
    last: Span | None = None
    for span in sorted(wide):
        chain = wide[span]
        if last is not None and filled[last] == chain and _all_single(last, span, single):
            del filled[last]
            span = Span(span.version, last.first, span.last)
        filled[span] = chain
        last = span
    return filled


def _all_single(one: Span, other: Span, single: Mapping[Span, str]) -> bool:
    return (
        one.version == other.version
        and other.first - one.last <= _FEW + 1
        and all(
            Span(one.version, address, address) in single
            for address in range(one.last + 1, other.first)
        )
    )


def _map(name: str, kind: str, elements: Mapping[Span, str], interval: bool) -> list[str]:
    lines = [f"\tmap {name} {{", f"\t\ttype {kind} : verdict"]
    # Of a known size, it is a hash table that never has to grow, which is quicker.
    lines.append("\t\tflags interval" if interval else f"\t\tsize {max(1, len(elements))}")
    if elements:
        lines.append("\t\telements = {")
        lines += [f"\t\t\t{span} : goto {chain}," for span, chain in sorted(elements.items())]
        lines.append("\t\t}")
    return [*lines, "\t}"]


def _look_up(side: str, name: str) -> list[str]:
    return [
        f"ct original {family} {side} vmap @{name}_{kind}{version}"
        for version, family in ((4, "ip"), (6, "ip6"))
        for kind in ("hosts", "nets")
    ]


def _access(matrix: Matrix, incoming: Sequence[Rule], ssh_port: int) -> tuple[list[str], list[str]]:
    """Give the rules that let administration in, and its answers out, whatever connection tracking thinks of it."""
    access_in: list[str] = []
    access_out: list[str] = []
    for rule in incoming:
        if not is_access(matrix, rule.flow, ssh_port):
            continue
        for version, word in ((4, "ip"), (6, "ip6")):
            there = _set(
                span for span in matrix.endpoints[rule.flow.source] if span.version == version
            )
            here = _set(span for span in rule.own if span.version == version)
            if there and here:
                access_in.append(
                    f"tcp dport {ssh_port} {word} saddr {there} {word} daddr {here} counter name access accept"
                )
                access_out.append(
                    f"tcp sport {ssh_port} {word} daddr {there} {word} saddr {here} "
                    "tcp flags & (fin | syn | rst | ack) != syn counter name access accept"
                )
    return access_in, access_out


def _neighbours() -> list[str]:
    """Give the chain for what interfaces say to each other, which is never tracked."""
    # Router advertisements are not among them: one host could give all others a route and a name server.
    neighbours = "{ nd-neighbor-solicit, nd-neighbor-advert }"
    listeners = (
        "{ mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }"
    )
    return _chain(
        "neighbours",
        [
            f"icmpv6 type {neighbours} ip6 hoplimit 255 accept",
            f"icmpv6 type {listeners} ip6 hoplimit 1 accept",
        ],
    )


def _base_chains(
    matrix: Matrix, incoming: Sequence[Rule], ssh_port: int, log_per_minute: int
) -> list[str]:
    access_in, access_out = _access(matrix, incoming, ssh_port)
    # What is not tracked has no direction: neighbour discovery, which never is, and what is invalid.
    rest = ["ct state untracked jump neighbours", "ct state invalid counter name invalid drop"]
    wrong = "destination-unreachable, time-exceeded, parameter-problem"
    return [
        *_chain(
            "input",
            [
                f"type filter hook input priority {PRIORITY}; policy drop;",
                'iif "lo" accept',
                *access_in,
                "ct direction original jump incoming",
                "ct direction reply jump outgoing",
                *rest,
                f"goto denied-in.{ELSEWHERE}",
            ],
        ),
        *_chain(
            "output",
            [
                f"type filter hook output priority {PRIORITY}; policy drop;",
                'oif "lo" accept',
                *access_out,
                "ct direction original jump outgoing",
                "ct direction reply jump incoming",
                *rest,
                f"goto denied-out.{ELSEWHERE}",
            ],
        ),
        *_chain(
            "forward",
            [
                f"type filter hook forward priority {PRIORITY}; policy drop;",
                "jump incoming",
                "ct state invalid counter name invalid drop",
                *_denial("denied-forward", "forwarded", log_per_minute),
            ],
        ),
        *_neighbours(),
        *_chain(
            "errors",
            [
                f"icmp type {{ {wrong} }} accept",
                f"icmpv6 type {{ {wrong}, packet-too-big }} accept",
            ],
        ),
        *_chain(
            "incoming",
            _look_up("saddr", "source"),
        ),
        *_chain(
            "outgoing",
            _look_up("daddr", "target"),
        ),
    ]


def _class_chain(
    word: str, members: tuple[str, ...], chosen: Sequence[Rule], side: str, direction: str
) -> list[str]:
    lines = []
    for rule in chosen:
        for version, family in ((4, "ip"), (6, "ip6")):
            here = _set(span for span in rule.own if span.version == version)
            lines += [
                f"{what}ct original {family} {side} {here} "
                f'counter name {rule.flow.name} accept comment "{_comment(rule.flow.why)}"'
                for what in (_protocols(rule.flow, version) if here else ())
            ]
    zone = next((name for name in members if "/" not in name), ELSEWHERE)
    return _chain(_class_name(word, members), [*lines, f"goto denied-{direction}.{zone}"])


def _protocols(flow: Flow, version: int) -> list[str]:
    """Give what a rule asks of the protocol, one for each range of ports.

    A set of them would be shorter, but nftables before 1.0.8 lists a set of ``proto-dst`` in a form that it does
    not read again, and a host must be able to restore what it listed. It knows the type of the port only after
    ``meta l4proto``; errors by ICMP, which that leaves out, are let through before.
    """
    if flow.protocol == "any":
        return [""]
    if flow.protocol == "icmp":
        kind = "icmp" if version == 4 else "icmpv6"
        return [f"{kind} type {{ echo-request, echo-reply }} "]
    return [
        f"meta l4proto {flow.protocol} ct original proto-dst {a if a == b else f'{a}-{b}'} "
        for a, b in flow.ports
    ]


def _denial(counter: str, words: str, log_per_minute: int) -> list[str]:
    return [
        # Errors by ICMP of connections that are let through, which are looked at only here: few packets come by.
        "ct state related jump errors",
        f"counter name {counter}",
        f'limit rate {log_per_minute}/minute burst 10 packets log prefix "deepseek denied {words}: " level info',
        "drop",
    ]


def _chain(name: str, lines: Iterable[str]) -> list[str]:
    return [f"\tchain {name} {{", *(f"\t\t{line}" for line in lines), "\t}"]


def _set(spans: Iterable[Span]) -> str:
    texts = [str(span) for span in sorted(spans)]
    return texts[0] if len(texts) == 1 else f"{{ {', '.join(texts)} }}" if texts else ""


def _class_name(word: str, members: tuple[str, ...]) -> str:
    """Name of a class's chain: its parts of a zone, or the zone where it is in none."""
    parts = [name for name in members if "/" in name] or list(members)
    return identifier(f"{word}.{'.'.join(parts)}")


def _comment(text: str) -> str:
    cleaned = re.sub(r"[\"\\\x00-\x1f]", " ", text).encode()[:_COMMENT_BYTES]
    return cleaned.decode(errors="ignore").strip()
