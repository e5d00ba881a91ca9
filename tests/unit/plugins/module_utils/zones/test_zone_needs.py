# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a site's services need is found from its inventory; an unknown endpoint hides none."""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any

import pytest
from example_site import ADDRESSES, SERVES, site, standard_flows
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.zones import ruleset as zone_rules
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.model import Matrix
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.needs import (
    clients_at,
    need_problems,
    needs,
    samples,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.reading import read
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.simulation import (
    MOST_NEEDS,
    sample,
)


def problems(site_: dict[str, Any], **serves: Any) -> list[str]:
    matrix, found = read(site_)
    assert found == []
    return [str(problem) for problem in need_problems(matrix, {**SERVES, **serves})]


def allowed(matrix: Matrix, source: str, target: str, port: int) -> bool:
    pair = (ipaddress.ip_address(source), ipaddress.ip_address(target))
    return matrix.allows(*pair, "tcp", port) is not None


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        ("10.1.20.99", "10.1.20.11", 443),  # from: [clients, service], and there is no zone clients
        (
            "10.1.40.21",
            "10.1.40.31",
            8443,
        ),  # from: [.., storage/release], and no host of release is in storage
        ("10.1.40.31", "10.1.40.32", 8442),
    ],
)
def test_an_unknown_endpoint_in_a_list_leaves_the_known_ones(
    source: str, target: str, port: int
) -> None:
    matrix, found = read(site())
    assert found == []
    assert allowed(matrix, source, target, port)


def test_an_unknown_endpoint_first_or_last_leaves_the_same_flows() -> None:
    flow = {"protocol": "tcp", "ports": [1], "why": "x", "to": ["hsm", "storage/storage"]}
    for ends in (["nowhere", "storage"], ["storage", "nowhere"], ["storage/nobody", "storage"]):
        matrix, found = read(site(standard=[{**flow, "from": ends}]))
        assert found == []
        assert [(one.source, one.target) for one in matrix.flows] == [
            ("storage", "storage/storage")
        ]


def test_a_standard_flow_that_is_written_wrong_is_no_silence() -> None:
    _matrix, found = read(site(standard=[{"from": "storage", "to": "storage", "why": "x"}]))
    assert any("its protocol is None" in str(problem) for problem in found)


def test_roles_export_what_a_site_needs() -> None:
    exported = [
        {key: flow[key] for key in ("from", "to", "ports", "why")}
        for flow in standard_flows()
        if flow["needed"]
    ]
    assert exported == SERVES["flows"]


def test_the_example_site_lacks_nothing() -> None:
    assert problems(site()) == []


@pytest.mark.parametrize(
    ("dropped", "says"),
    [
        (
            "clients ask the gateways",
            "a client in 10.1.20.0/24 (zone service): no flow lets 10.1.20.1 reach TCP port 443",
        ),
        (
            "gateways ask workers",
            "no flow lets 10.1.30.11 reach TCP port 8000 of inference-1",
        ),
        (
            "models and wheels are read",
            "no flow lets 10.1.40.21 reach TCP port 8443 of storage-1",
        ),
    ],
)
def test_a_flow_without_which_the_site_does_not_serve_is_missed(dropped: str, says: str) -> None:
    left = [flow for flow in standard_flows() if flow["why"] != dropped]
    assert len(left) < len(standard_flows())
    assert any(says in line for line in problems(site(standard=left)))


def test_clients_that_are_named_are_needed_and_others_are_not() -> None:
    with_clients = site()
    with_clients["zones"]["clients"] = {"networks": ["10.9.0.0/16"]}
    own = [flow for flow in standard_flows() if "service/gateway" not in flow["to"]]
    own.append(
        {"from": "clients", "to": "service/gateway", "protocol": "tcp", "ports": [443], "why": "x"}
    )
    with_clients["standard"] = own
    assert any("zone service" in line for line in problems(with_clients))
    assert problems(with_clients, client_zones=["clients"]) == []


def test_a_site_without_any_client_and_a_gateway_without_an_address_for_them_are_told() -> None:
    assert any(
        "nobody could ask the service" in line for line in problems(site(), client_zones=["x"])
    )
    lost = site()
    del lost["hosts"][1][2]["service"]
    says = "gateway-2: it is in group gateway without an address in zone service"
    assert any(says in line for line in problems(lost))


def test_needs_of_one_kind_are_told_once() -> None:
    lines = problems(site(standard=[]))
    assert len(lines) == len(set(lines))
    assert sum("clients ask the gateways" in line for line in lines) == 2


@given(st.integers(0, 2**32 - 1), st.integers(16, 32), st.sets(st.integers(0, 40), max_size=8))
def test_samples_are_free_addresses_of_the_network(
    start: int, prefix: int, taken: set[int]
) -> None:
    network = ipaddress.ip_network((start, prefix), strict=False)
    assert isinstance(network, ipaddress.IPv4Network)
    used = {network.network_address + (number % network.num_addresses) for number in taken}
    found = samples(network, set(used))
    assert all(address in network and address not in used for address in found)
    assert found or len(used) >= network.num_addresses - 2 or network.num_addresses <= 2
    assert len(found) == len(set(found)) <= 3


def test_what_a_client_at_an_address_needs() -> None:
    matrix, _unused = read(site())
    asked = clients_at(
        matrix, SERVES, [ipaddress.ip_address("10.1.20.7"), ipaddress.ip_address("10.1.40.7")]
    )
    assert [(str(need.source), need.target_host) for need in asked] == [
        ("10.1.20.7", "gateway-1"),
        ("10.1.20.7", "gateway-2"),
    ]


# Hosts do not administer each other, and believe no router that nobody asked


def test_hosts_are_administered_from_controllers_only() -> None:
    matrix, _unused = read(site())
    assert allowed(matrix, "10.1.10.1", "10.1.10.31", 22)
    assert not allowed(matrix, "10.1.10.11", "10.1.10.31", 22)
    assert not allowed(matrix, "10.1.10.99", "10.1.10.31", 22)


def test_a_site_that_does_not_say_where_its_controllers_are_is_refused() -> None:
    without = site()
    del without["zones"]["management"]["ranges"]["controllers"]
    assert any("there is no range controllers" in str(problem) for problem in read(without)[1])


def test_router_advertisements_are_let_in_by_no_table() -> None:
    matrix, _unused = read(site())
    for host in matrix.hosts:
        for table in (zone_rules.ruleset(matrix, host), zone_rules.closed_ruleset(matrix, host)):
            assert "nd-router" not in table
            assert "nd-neighbor-solicit" in table


# More than can be tried


def many_readers(readers: int) -> dict[str, Any]:
    """A site with so many inference hosts, in racks of 200, with addresses of both families."""
    made = site()
    storage = made["zones"]["storage"]["networks"]
    storage[:] = ["10.2.0.0/16", "fd00:2::/64"]
    made["hosts"] = [
        *(
            [name, ["storage"], {"storage": f"10.2.0.{last}"}, {"storage": f"fd00:2::{last}"}]
            for name, last in (("storage-1", 31), ("storage-2", 32))
        ),
        *(
            [
                f"inference-{number}",
                ["inference"],
                {"storage": f"10.2.{1 + number // 200}.{1 + number % 200}"},
                {"storage": f"fd00:2::1:{number:x}"},
            ]
            for number in range(readers)
        ),
    ]
    return made


def test_of_2000_readers_as_many_are_tried_as_can_be_from_all_over() -> None:
    matrix, _unused = read(many_readers(2000))
    wanted = [need.plain() for need in needs(matrix, SERVES, "storage-1")]
    assert len(wanted) == 2 * 2001  # of both families, and the other storage host reads, too
    tried = sample(wanted)
    assert len(tried) == MOST_NEEDS
    assert tried == sample(list(reversed(wanted)))
    for target in ("10.2.0.31", "fd00:2::31"):
        every = sorted(
            (ipaddress.ip_address(need["source"]) for need in wanted if need["target"] == target),
            key=int,
        )
        taken = [
            every.index(ipaddress.ip_address(need["source"]))
            for need in tried
            if need["target"] == target
        ]
        assert len(taken) == MOST_NEEDS // 2
        assert (taken[0], taken[-1]) == (0, len(every) - 1)
        assert {after - before for before, after in itertools.pairwise(taken)} == {7, 8}


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), most=st.integers(1, 120))
def test_a_sample_has_of_each_kind_its_edges_and_no_place_is_lost(
    sizes: list[int], most: int
) -> None:
    wanted = [
        {"source": f"10.0.{kind}.{number}", "target": f"10.9.9.{kind}", "port": 1, "why": "reads"}
        for kind, size in enumerate(sizes)
        for number in range(size)
    ]
    tried = sample(wanted, most)
    assert len(tried) == min(most, len(wanted))
    assert len({need["source"] for need in tried}) == len(tried)
    for kind, size in enumerate(sizes):
        taken = [need for need in tried if need["target"] == f"10.9.9.{kind}"]
        assert len(taken) == size or len(taken) >= most // len(sizes)
        if len(taken) >= 2:
            assert {f"10.0.{kind}.0", f"10.0.{kind}.{size - 1}"} <= {
                need["source"] for need in taken
            }


@pytest.mark.parametrize("name", ADDRESSES)
def test_the_needs_of_one_host_are_those_of_all_that_are_its_own(name: str) -> None:
    matrix, _unused = read(site())
    wanted = [need for need in needs(matrix, SERVES) if need.target_host == name]
    assert wanted
    assert list(needs(matrix, SERVES, name)) == wanted
