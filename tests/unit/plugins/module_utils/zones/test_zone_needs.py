# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a site's services need is found from its inventory; an unknown endpoint hides none."""

from __future__ import annotations

import copy
import ipaddress
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import role_exports
from ansible_collections.onprem.deepseek.plugins.module_utils.zones import ruleset as zone_rules
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.dependencies import dependencies
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.model import Matrix
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.needs import (
    clients_at,
    dependency_problems,
    need_problems,
    needs,
    samples,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.reading import read
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.simulation import (
    MOST_NEEDS,
    sample,
)

ROOT = Path(__file__).resolve().parents[5]
# What a site needs, written down here a second time: a role that exports less than this is wrong.
READERS = ["storage/inference", "storage/release", "storage/storage"]
SERVES = {
    "client_zones": ["clients", "service"],
    "flows": [
        {
            "from": ["clients", "service"],
            "to": ["service/gateway"],
            "ports": [443],
            "why": "clients ask the gateways",
        },
        {
            "from": ["inference/gateway"],
            "to": ["inference/inference"],
            "ports": [8000],
            "why": "gateways ask workers",
        },
        {
            "from": READERS,
            "to": ["storage/storage"],
            "ports": [8443],
            "why": "models and wheels are read",
        },
        {
            "from": READERS,
            "to": ["storage/release"],
            "ports": [8443],
            "why": "models and wheels are read",
        },
    ],
}
ADDRESSES = {
    "gateway-1": ("gateway", {"management": 11, "service": 11, "inference": 11}),
    "gateway-2": ("gateway", {"management": 12, "service": 12, "inference": 12}),
    "inference-1": ("inference", {"management": 21, "inference": 21, "storage": 21}),
    "storage-1": ("storage", {"management": 31, "storage": 31}),
    "storage-2": ("storage", {"management": 32, "storage": 32}),
}
OCTETS = {"management": 10, "service": 20, "inference": 30, "storage": 40}


PORTS = {
    "{{ network_segmentation_ssh_port }}": 22,
    "{{ deepseek_gateway_port }}": 443,
    "{{ gateway_metrics_port }}": 8405,
    "{{ deepseek_storage_port }}": 8443,
    "{{ preflight_network_port }}": 8442,
}


def standard_flows() -> list[dict[str, Any]]:
    """What the roles export, with its templates filled in."""
    found = []
    for _role, flow in role_exports.flows():
        ports = flow.get("ports", [])
        # an expression gives all ports of the workers
        filled = [8000] if isinstance(ports, str) else [PORTS.get(port, port) for port in ports]
        found.append({**flow, "ports": filled} if ports else flow)
    return found


def site(**changes: Any) -> dict[str, Any]:
    """As inventories/production.example has it: without a zone for clients or an HSM."""
    made: dict[str, Any] = {
        "zones": {name: {"networks": [f"10.1.{octet}.0/24"]} for name, octet in OCTETS.items()},
        "flows": [],
        "standard": standard_flows(),
        "groups": ["gateway", "inference", "storage", "release"],
        "hosts": [
            [
                name,
                [group],
                {zone: f"10.1.{OCTETS[zone]}.{last}" for zone, last in zones.items()},
                {},
            ]
            for name, (group, zones) in ADDRESSES.items()
        ],
    }
    made["zones"]["management"]["ranges"] = {
        "controllers": ["10.1.10.1"],
        "infrastructure": ["10.1.10.2"],
    }
    return {**made, **copy.deepcopy(changes)}


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


# What hosts are set up to ask


def asked_by(outputs: dict[str, str]) -> Any:
    def ask(argv: Any) -> tuple[int, str]:
        key = " ".join(argv[:2]) if argv[0] != "getent" else f"getent {argv[2]}"
        return (0, outputs[key]) if key in outputs else (2, "")

    return ask


INDEX = (
    "http://deb.example/dists/x/Packages\nhttps://sec.example:8443/y\ncdrom:[x]/z\nfile:/mnt/a\n"
)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ("", [("10.7.0.1", 80), ("10.7.0.2", 8443)]),
        ('Acquire::http::Proxy "http://10.8.0.1:3142/";\n', [("10.8.0.1", 3142)]),
        (
            'Acquire::http::Proxy "http://10.8.0.1:3142/";\nAcquire::https::Proxy "DIRECT";\n',
            [("10.7.0.2", 8443), ("10.8.0.1", 3142)],
        ),
        (
            (
                'Acquire::http::Proxy "http://10.8.0.1";\n'
                'Acquire::http::Proxy::deb.example "DIRECT";\n'
            ),
            [("10.7.0.1", 80), ("10.8.0.1", 80)],
        ),
    ],
)
def test_apts_indexes_and_proxies_are_found(
    config: str, wanted: list[tuple[str, int]], tmp_path: Path
) -> None:
    ask = asked_by(
        {
            "apt-config dump": config,
            "apt-get indextargets": INDEX,
            "getent deb.example": "10.7.0.1 STREAM deb.example\n10.7.0.1 DGRAM\n",
            "getent sec.example": "10.7.0.2 STREAM\n",
        }
    )
    found, unresolved = dependencies(ask, [str(tmp_path / "none")])
    assert sorted((item["address"], item["port"]) for item in found) == wanted
    assert unresolved == []


def test_name_servers_are_found_and_what_has_no_address_is_said(tmp_path: Path) -> None:
    config = tmp_path / "resolv.conf"
    config.write_bytes(
        b"# \xff\nnameserver 127.0.0.53\nnameserver 10.7.0.3\n"
        b"nameserver fe80::1%eth0\nnameserver x\n"
    )
    found, unresolved = dependencies(asked_by({"apt-get indextargets": INDEX}), [str(config)])
    assert [(item["address"], item["protocol"], item["port"]) for item in found] == [
        ("10.7.0.3", "udp", 53),
        ("fe80::1", "udp", 53),
    ]
    assert len(unresolved) == 2


def test_a_mirror_without_a_flow_is_told_before_the_rules_block_it() -> None:
    matrix, _unused = read(site())
    wanted = [
        {"what": "a package index of apt", "address": "10.7.0.1", "protocol": "tcp", "port": 80},
        {"what": "the proxy of apt", "address": "10.1.10.2", "protocol": "tcp", "port": 443},
        {"what": "a name server of x", "address": "10.1.10.2", "protocol": "udp", "port": 53},
        {"what": "a name server of x", "address": "10.1.10.31", "protocol": "udp", "port": 53},
    ]
    lines = [str(problem) for problem in dependency_problems(matrix, {"storage-1": wanted})]
    assert len(lines) == 1
    assert (
        "storage-1: a package index of apt is at 10.7.0.1, "
        "and no flow lets the host reach tcp port 80" in lines[0]
    )


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


# With packets

SIMULATE = """
import json, subprocess, sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.simulation import simulate

def run(argv, data):
    done = subprocess.run(argv, input=data, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr

asked = json.load(sys.stdin)
print(json.dumps([simulate(run, table, asked["needs"], 0.3) for table in asked["tables"]]))
"""


def simulated(tables: list[str], wanted: list[dict[str, Any]]) -> Any:
    done = subprocess.run(
        [
            "unshare",
            "--map-root-user",
            "--net",
            sys.executable,
            "-c",
            SIMULATE,
            str(ROOT / ".cache/collections"),
        ],
        input=json.dumps({"tables": tables, "needs": wanted}),
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_clients_are_let_in_by_the_rules_and_not_by_rules_that_lack_their_flow() -> None:
    matrix, _unused = read(site())
    without, _unused = read(
        site(standard=[flow for flow in standard_flows() if "service/gateway" not in flow["to"]])
    )
    gateway = matrix.host("gateway-1")
    wanted = [need.plain() for need in needs(matrix, SERVES) if need.target_host == "gateway-1"]
    assert len(wanted) == 3
    stranger = {"source": "10.66.0.1", "target": "10.1.20.11", "port": 443}
    asked = [*wanted, stranger]
    tables = [
        zone_rules.ruleset(matrix, gateway),
        zone_rules.ruleset(without, without.host("gateway-1")),
        zone_rules.closed_ruleset(matrix, gateway),
    ]
    right, wrong, closed = simulated(tables, asked)
    assert right == ["reached"] * 3 + ["silent"]
    assert wrong == closed == ["silent"] * 4


def test_a_host_whose_rules_cannot_be_loaded_lets_administration_in_and_nothing_else() -> None:
    matrix, _unused = read(site())
    asked = [
        {"source": "10.1.10.1", "target": "10.1.10.31", "port": 22},
        {"source": "10.1.10.11", "target": "10.1.10.31", "port": 22},
        {"source": "10.1.10.1", "target": "10.1.10.31", "port": 8443},
        {"source": "10.1.40.21", "target": "10.1.40.31", "port": 8443},
    ]
    closed = zone_rules.closed_ruleset(matrix, matrix.host("storage-1"))
    assert simulated([closed], asked) == [["reached", "silent", "silent", "silent"]]


WATCH = ROOT / "roles/network_segmentation/files/deepseek-zones-watch"


@pytest.fixture
def watched(tmp_path: Path) -> Any:
    """Run the program that watches; for nft and systemctl, files stand in for table and timer."""
    tools = tmp_path / "bin"
    tools.mkdir()
    loaded = tmp_path / "loaded"
    (tools / "nft").write_text(
        f'#!/bin/sh\nif [ "$1" = -s ]; then cat {loaded} 2>/dev/null; else cp "$2" {loaded}; fi\n'
    )
    (tools / "systemctl").write_text(f"#!/bin/sh\n[ -e {tmp_path}/pending ]\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "boot.nft").write_text("right\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(WATCH), *words],
            env={"PATH": f"{tools}:{os.environ['PATH']}", "RUNTIME_DIRECTORY": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize("now", [None, "right\nand more\n", ""])
def test_rules_that_were_flushed_or_changed_are_noticed_and_loaded_again(
    watched: Any, tmp_path: Path, now: str | None
) -> None:
    loaded = tmp_path / "loaded"
    loaded.write_text("right\n")
    assert watched("record").returncode == 0
    assert watched("compare", str(tmp_path / "boot.nft")).returncode == 0
    if now is None:
        loaded.unlink()
    else:
        loaded.write_text(now)
    noticed = watched("compare", str(tmp_path / "boot.nft"))
    assert noticed.returncode == 1
    assert ("was changed by hand" if now else "was flushed") in noticed.stderr
    assert loaded.read_text() == "right\n"
    assert watched("compare", str(tmp_path / "boot.nft")).returncode == 0


def test_a_change_that_waits_for_its_confirmation_is_left_alone(
    watched: Any, tmp_path: Path
) -> None:
    loaded = tmp_path / "loaded"
    loaded.write_text("right\n")
    watched("record")
    loaded.write_text("new\n")
    (tmp_path / "pending").touch()
    assert watched("compare", str(tmp_path / "boot.nft")).returncode == 0
    assert loaded.read_text() == "new\n"
    (tmp_path / "pending").unlink()
    with subprocess.Popen(
        ["flock", str(tmp_path / "lock"), "sh", "-c", "echo held; read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert watched("compare", str(tmp_path / "boot.nft")).returncode == 0
        assert loaded.read_text() == "new\n"
        assert holder.stdin is not None
        holder.stdin.close()


@pytest.mark.parametrize("name", ADDRESSES)
def test_the_needs_of_one_host_are_those_of_all_that_are_its_own(name: str) -> None:
    matrix, _unused = read(site())
    wanted = [need for need in needs(matrix, SERVES) if need.target_host == name]
    assert wanted
    assert list(needs(matrix, SERVES, name)) == wanted
