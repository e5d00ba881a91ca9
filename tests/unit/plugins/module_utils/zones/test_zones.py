# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Zones and flows: what is wrong with them, and what they let through."""

from __future__ import annotations

import copy
import ipaddress
import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.zones import ruleset as zone_rules
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.checks import (
    access_problems,
    interface_problems,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.evidence import (
    probes,
    report,
    unit_problems,
    wrong,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.model import Matrix, Span
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.reading import read

SITE: dict[str, Any] = {
    "zones": {
        "management": {
            "networks": ["10.1.10.0/24", "fd00:1:10::/64"],
            "groups": ["all"],
            "ranges": {"controllers": ["10.1.10.1"], "infrastructure": ["10.1.10.1"]},
        },
        "inference": {"networks": ["10.1.30.0/24", "fd00:1:30::/64"], "groups": ["gateway"]},
        "storage": {"networks": ["10.1.40.0/24"]},
    },
    "flows": [
        {
            "from": "management",
            "to": "management",
            "protocol": "tcp",
            "ports": [22],
            "why": "administration",
        },
        {
            "from": "inference/gateway",
            "to": "inference/inference",
            "protocol": "tcp",
            "ports": ["8000-8003"],
            "why": "requests",
        },
        {
            "from": ["storage/inference", "storage/storage"],
            "to": "storage/storage",
            "protocol": "tcp",
            "ports": [8443],
            "why": "models",
        },
        {
            "from": "management",
            "to": "management/infrastructure",
            "protocol": "udp",
            "ports": [53, 123],
            "why": "names",
        },
    ],
    "standard": [],
    "groups": ["gateway", "inference", "storage"],
    "hosts": [
        [
            "gateway-1",
            ["gateway"],
            {"management": "10.1.10.11", "inference": "10.1.30.11"},
            {"management": "fd00:1:10::11", "inference": "fd00:1:30::11"},
        ],
        [
            "inference-1",
            ["inference"],
            {"management": "10.1.10.21", "inference": "10.1.30.21", "storage": "10.1.40.21"},
            {"inference": "fd00:1:30::21"},
        ],
        ["storage-1", ["storage"], {"management": "10.1.10.31", "storage": "10.1.40.31"}, {}],
    ],
}


def site(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SITE), **changes}


def problems_of(wrong_site: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in read(wrong_site)[1]]


def test_a_right_site_has_no_problem() -> None:
    assert problems_of(site()) == []


def test_everything_that_is_wrong_is_found_at_once() -> None:
    bad = site()
    bad["zones"]["storage"]["networks"] = ["10.1.30.128/25", "10.1.40.0/24"]
    bad["hosts"].append(["stray-1", [], {}, {}])
    bad["flows"] += [
        {"from": "dmz", "to": "storage", "protocol": "tcp", "ports": [1], "why": "x"},
        {"from": "storage", "to": "storage", "protocol": "tcp", "ports": [70000], "why": "x"},
        {"from": "storage", "to": "inference", "protocol": "sctp", "ports": [1], "why": ""},
    ]
    found = "\n".join(problems_of(bad))
    assert "10.1.30.0/24 of zone inference and 10.1.30.128/25 of zone storage overlap" in found
    assert "stray-1: it is in no zone" in found
    assert "there is no zone 'dmz'" in found
    assert "70000 is no port" in found
    assert "its protocol is 'sctp'" in found
    assert "it does not say why" in found


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("zones", "storage", "networks"), ["10.1.40.7/24"], "Did you mean 10.1.40.0/24"),
        (("zones", "storage", "networks"), ["ten"], "'ten' is not a network"),
        (("zones", "storage", "network"), [], "there is no key 'network'"),
        (
            ("zones", "storage", "groups"),
            ["gateway"],
            "gateway-1: it has no address in zone storage",
        ),
        (("zones", "storage", "groups"), ["nobody"], "the inventory has no group 'nobody'"),
        (
            ("zones", "management", "ranges"),
            {"x": ["10.2.0.1"]},
            "is in none of the zone's networks",
        ),
        (("zones", "Storage"), {"networks": ["10.9.0.0/16"]}, "no name for a zone"),
        (("flows", 1, "from"), "inference/proxy", "no range of zone inference, and no group"),
        (("flows", 1, "ports"), ["9-10"], "port 9 (discard) is what denied pairs"),
        (("flows", 1, "ports"), [], "it names no port"),
        (("flows", 1, "proto"), "tcp", "there is no key 'proto'"),
        (("flows", 1, "to"), "storage/gateway", "storage/gateway has no address"),
        (("hosts", 2, 2, "storage"), "10.1.41.31", "10.1.41.31 is in none of the zone's networks"),
        (("hosts", 2, 2, "lab"), "10.1.41.31", "deepseek_zones has no such zone"),
        (("hosts", 2, 2, "storage"), "thirty", "'thirty' is not an IP address"),
    ],
)
def test_what_is_wrong_is_said(path: tuple[Any, ...], value: Any, says: str) -> None:
    bad = site()
    place: Any = bad
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    found = problems_of(bad)
    assert any(says in line for line in found), found


def test_a_flow_between_families_could_never_match() -> None:
    bad = site()
    bad["zones"]["six"] = {"networks": ["fd00:6::/64"]}
    bad["flows"].append({"from": "six", "to": "storage", "protocol": "icmp", "why": "x"})
    assert any(
        "one side has IPv4 only and the other IPv6 only" in line for line in problems_of(bad)
    )


def test_a_flow_that_no_host_sees_is_refused() -> None:
    bad = site()
    bad["zones"]["a"] = {"networks": ["10.7.0.0/24"]}
    bad["zones"]["b"] = {"networks": ["10.8.0.0/24"]}
    bad["flows"].append({"from": "a", "to": "b", "protocol": "icmp", "why": "x"})
    assert any("nothing would enforce it" in line for line in problems_of(bad))


def test_standard_flows_count_as_far_as_the_site_has_their_zones() -> None:
    standard = [
        {"from": "monitoring", "to": "management", "protocol": "tcp", "ports": [9100], "why": "x"},
        {"from": "storage/gateway", "to": "storage", "protocol": "tcp", "ports": [1], "why": "x"},
        {"from": "management", "to": "management", "protocol": "icmp", "why": "x"},
    ]
    matrix, found = read(site(standard=standard))
    assert found == []
    assert matrix.flows[0].name == "management..management.icmp"
    assert len(matrix.flows) == 6


@pytest.mark.parametrize(
    ("source", "target", "protocol", "port", "allowed"),
    [
        ("10.1.30.11", "10.1.30.21", "tcp", 8003, True),
        ("10.1.30.11", "10.1.30.21", "tcp", 8004, False),
        ("10.1.30.11", "10.1.30.21", "udp", 8003, False),
        ("10.1.30.12", "10.1.30.21", "tcp", 8000, False),  # in the zone, and no gateway
        ("fd00:1:30::11", "fd00:1:30::21", "tcp", 8000, True),
        ("10.1.30.21", "10.1.30.11", "tcp", 8000, False),
        ("10.1.10.21", "10.1.10.1", "udp", 123, True),
        ("10.1.10.1", "10.1.10.21", "udp", 123, False),
        ("10.1.10.5", "10.1.10.21", "tcp", 22, True),
        ("10.1.30.11", "10.1.10.21", "tcp", 22, False),
        ("192.0.2.1", "10.1.10.21", "tcp", 22, False),
    ],
)
def test_what_is_let_through(
    source: str, target: str, protocol: str, port: int, allowed: bool
) -> None:
    matrix, _unused = read(site())
    pair = (ipaddress.ip_address(source), ipaddress.ip_address(target))
    assert (matrix.allows(*pair, protocol, port) is not None) is allowed


@pytest.mark.parametrize(
    ("connection", "locked_out"),
    [
        ("10.1.10.1 40000 10.1.10.31 22", False),
        ("", False),
        ("10.1.99.1 40000 10.1.10.31 22", True),  # from outside
        ("10.1.10.1 40000 10.1.40.31 22", True),  # to an address of another zone
        ("10.1.10.1 40000 10.1.10.31 2222", True),  # to another port
    ],
)
def test_a_controller_that_would_lock_itself_out_is_told(connection: str, locked_out: bool) -> None:
    matrix, _unused = read(site())
    found = [str(line) for line in access_problems(matrix, {"storage-1": connection})]
    assert bool(found) is locked_out
    assert all("lock the controller out" in line for line in found)


def test_an_address_on_a_zones_interface_without_a_rule_is_told() -> None:
    matrix, _unused = read(site())
    interface = {
        "ifname": "eth1",
        "addr_info": [
            {"local": "10.1.40.31", "scope": "global"},
            {"local": "fd00:1:40::31", "scope": "global"},
            {"local": "fe80::1", "scope": "link"},
        ],
    }
    found = [str(line) for line in interface_problems(matrix, {"storage-1": [interface]})]
    assert len(found) == 1
    assert "fd00:1:40::31, for which no zone has a rule" in found[0]


def test_a_leased_address_that_could_not_be_renewed_is_told() -> None:
    matrix, _unused = read(site())
    leased = {"local": "10.1.40.31", "scope": "global", "dynamic": True}
    interface = {"ifname": "eth1", "addr_info": [leased]}
    found = [str(line) for line in interface_problems(matrix, {"storage-1": [interface]})]
    assert len(found) == 1
    assert "leased (DHCP)" in found[0]


addresses = st.integers(0, 255)
spans = st.lists(
    st.tuples(addresses, addresses).map(lambda pair: Span(4, min(pair), max(pair))), max_size=4
)


@given(st.dictionaries(st.sampled_from("abcd"), spans, max_size=4))
def test_every_address_is_in_one_class_at_most_and_in_the_right_one(
    endpoints: dict[str, list[Span]],
) -> None:
    merged = {name: zone_rules.merge(spans) for name, spans in endpoints.items()}
    found = zone_rules.classes(merged)
    for number in range(256):
        address = ipaddress.IPv4Address(number)
        members = [
            names for names, spans in found.items() if any(span.holds(address) for span in spans)
        ]
        wanted = tuple(
            sorted(
                name for name, spans in merged.items() if any(span.holds(address) for span in spans)
            )
        )
        assert members == ([wanted] if wanted else [])


@given(spans, spans)
def test_what_two_have_in_common(one: list[Span], other: list[Span]) -> None:
    first, second = zone_rules.merge(one), zone_rules.merge(other)
    both = zone_rules.common(first, second)
    for number in range(256):
        address = ipaddress.IPv4Address(number)
        in_all = [any(span.holds(address) for span in each) for each in (first, second, both)]
        assert in_all[2] == (in_all[0] and in_all[1])


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_span_is_written_as_what_it_is(one: int, other: int) -> None:
    span = Span(4, min(one, other), max(one, other))
    text = str(span)
    if "-" in text:
        low, high = text.split("-")
    else:
        network = ipaddress.ip_network(text)
        low, high = str(network.network_address), str(network.broadcast_address)
    assert (int(ipaddress.ip_address(low)), int(ipaddress.ip_address(high))) == (
        span.first,
        span.last,
    )


def test_probes_ask_for_every_pair_and_say_what_is_expected() -> None:
    matrix, _unused = read(site())
    tried = probes(matrix, matrix.host("gateway-1"))
    found = {(p.source, p.target, p.protocol, p.port): p.allowed for p in tried}
    assert found["10.1.30.11", "10.1.30.21", "tcp", 8000] is True
    assert found["10.1.30.11", "10.1.30.21", "tcp", 8003] is True
    assert found["10.1.30.11", "10.1.30.21", "tcp", 9] is False
    assert found["fd00:1:30::11", "fd00:1:30::21", "udp", 9] is False
    assert found["10.1.10.11", "10.1.40.31", "icmp", None] is False
    assert found["10.1.10.11", "10.1.10.31", "tcp", 22] is True
    # 8443, 8000, 8003, 22 and 9 over TCP, 53, 123 and 9 over UDP, and ICMP
    assert len(tried) == 9 * (2 * (3 + 2) + 2 * 1)


def test_of_many_hosts_of_one_kind_some_are_tried_and_others_by_others() -> None:
    many = site()
    many["hosts"] += [
        [f"storage-{number}", ["storage"], {"management": f"10.1.10.{number}"}, {}]
        for number in range(100, 140)
    ]
    matrix, _unused = read(many)
    first = {p.target_host for p in probes(matrix, matrix.host("storage-100"), 3)}
    second = {p.target_host for p in probes(matrix, matrix.host("storage-110"), 3)}
    assert len(first) == 3 + 3
    assert len({name for name in first | second if name.startswith("storage-1")}) == 6 + 1


def test_what_came_out_otherwise_is_said() -> None:
    matrix, _unused = read(site())
    tried = [
        {"host": "a", "source": "1", "target_host": "b", "target": "2", "protocol": "tcp"}
        | {"port": port, "allowed": allowed, "flow": "f" if allowed else ""}
        for port, allowed in ((1, True), (2, False), (3, True), (4, False))
    ]
    assert len(matrix.flows) == 5
    found = wrong(tried, ["reached", "reached", "silent", "denied here"])
    assert len(found) == 2
    assert "tcp 2 from a (1) to b (2) is denied, and was reached" in found[0]
    assert "tcp 3 from a (1) to b (2) is let through (f), and was silent" in found[1]
    assert len(wrong(tried, ["silent", "silent", "silent", "silent"], before=tried[:1])) == 1


def found_by(matrix: Matrix, name: str, **changes: Any) -> dict[str, Any]:
    """Give what a host finds where all is right."""
    tried = [asdict(probe) for probe in probes(matrix, matrix.host(name))]
    return {
        "probes": tried,
        "outcomes": ["reached" if probe["allowed"] else "silent" for probe in tried],
        "namespaces": [],
        "refused_needs": [],
        "tried_needs": 3,
        "needs": 3,
        "canaries": {"192.0.2.1": ["no route", "denied here"]},
        "counters": {flow.name: 3 for flow in matrix.flows} | {"denied-in.storage": 2},
        "default_routes": [],
        "may_have_default_route": False,
        "ruleset_sha256": "0" * 64,
        "enforced": True,
        "units": [],
        "unit_ports": [8000],
        **changes,
    }


def test_a_report_of_what_is_right() -> None:
    matrix, _unused = read(site())
    evidence = {host.name: found_by(matrix, host.name) for host in matrix.hosts}
    made = report(matrix, evidence, "2026-01-01T00:00:00Z")
    assert made["wrong"] == []
    assert made["never_hit"] == []
    assert made["flows"][0]["packets"] == 9
    cell = made["cells"]["inference"]["inference"]
    assert cell["allowed"] == cell["reached"] == 4
    assert cell["denied"] == cell["stopped"] > 0
    assert made["hosts"]["storage-1"]["denied"] == {"denied-in.storage": 2}
    json.dumps(made)


def test_a_report_names_everything_that_is_wrong() -> None:
    matrix, _unused = read(site())
    right = found_by(matrix, "storage-1")
    box = {"pid": 7, "command": "box", "outcomes": ["reached", *right["outcomes"][1:]]}
    box["outcomes"] = ["reached"] + ["silent"] * (len(right["outcomes"]) - 1)
    evidence = {
        "storage-1": found_by(
            matrix,
            "storage-1",
            outcomes=["reached"] * len(right["outcomes"]),
            namespaces=[box],
            canaries={"192.0.2.1": ["reached"]},
            counters={},
            default_routes=["default via 10.1.40.1 dev eth1"],
            enforced=False,
        ),
        "gateway-1": found_by(
            matrix,
            "gateway-1",
            default_routes=["default via 10.1.10.1"],
            may_have_default_route=True,
        ),
    }
    lines = "\n".join(report(matrix, evidence, "now")["wrong"])
    assert "inference-1 was not asked" in lines
    assert "storage-1 does not enforce the rules" in lines
    assert "container box (process 7) on storage-1" in lines
    assert "storage-1 reached 192.0.2.1, which is in no zone" in lines
    assert "storage-1 has a default route: default via 10.1.40.1" in lines
    assert "is denied, and was reached" in lines
    assert "gateway-1 has a default route" not in lines


@pytest.mark.parametrize(
    ("units", "says"),
    [
        ([], None),
        (["10.1.30.11/32 fd00:1:30::11/128 10.1.30.21/32"], None),
        (["10.1.30.11/32 10.1.30.21/32 127.0.0.0/8 ::1/128"], None),
        (["10.1.30.11/32 10.1.30.50/32"], "lets in 10.1.30.11, 10.1.30.50"),
        (["10.1.30.0/24"], "the zones only 10.1.30.11"),
    ],
)
def test_a_unit_that_lets_in_more_than_the_zones_is_told(
    units: list[str], says: str | None
) -> None:
    matrix, _unused = read(site())
    lines = unit_problems(matrix, "inference-1", units, [8000])
    assert (says is None and lines == []) or (says is not None and says in lines[0])


# Loads it, lists it, and loads what was listed: a host restores itself from a listing.
NFT = """
nft -f - && nft -s list table inet deepseek_zones >"$1"
{ echo "delete table inet deepseek_zones"; nft list table inet deepseek_zones; } | nft -f -
nft -s list table inet deepseek_zones | cmp - "$1" && cat "$1"
"""


def listed(ruleset: str, tmp_path: Path) -> str:
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", "sh", "-ec", NFT, "sh", str(tmp_path / "list")],
        input=ruleset,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("host", ["gateway-1", "inference-1", "storage-1"])
def test_nft_reads_the_rules_and_its_own_listing_of_them(host: str, tmp_path: Path) -> None:
    more = {"from": "storage/all", "to": "storage/all", "why": 'a "quoted" 理由\nof two lines'}
    flows = [*SITE["flows"], {**more, "protocol": "icmp"}, {**more, "protocol": "any"}]
    matrix, found = read(site(flows=flows))
    assert found == []
    text = listed(zone_rules.ruleset(matrix, matrix.host(host)), tmp_path)
    assert "policy drop" in text
    assert "flush" not in text


def test_access_from_the_management_zone_comes_before_all_that_asks_for_a_connection() -> None:
    matrix, _unused = read(site())
    lines = zone_rules.ruleset(matrix, matrix.host("storage-1"), ssh_port=22).splitlines()
    start = lines.index("\tchain input {")
    rules = lines[start + 2 : lines.index("\t}", start)]
    access = "tcp dport 22 ip saddr 10.1.10.0/24 ip daddr 10.1.10.31 counter name access accept"
    assert rules[1].strip() == access
    assert "ct " not in "".join(rules[:2])


def test_a_host_has_what_concerns_it_and_no_rule_for_pairs_of_hosts() -> None:
    many = site()
    many["hosts"] += [
        [f"inference-{number}", ["inference"], {"storage": f"10.1.40.{number}"}, {}]
        for number in range(100, 200, 2)
    ]
    matrix, _unused = read(many)
    sizes = [
        zone_rules.ruleset(each, each.host("storage-1")).count(" accept")
        for each in (matrix, read(site())[0])
    ]
    assert sizes[0] == sizes[1]
    assert "8000" not in zone_rules.ruleset(matrix, matrix.host("storage-1"))
