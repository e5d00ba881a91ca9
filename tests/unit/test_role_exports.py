# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What others must know of a role is in its meta/exports.yml, and in no second place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import (
    releases,
    role_exports,
    role_variables,
    systems,
)

ROOT = Path(__file__).resolve().parents[2]
EXPORTS = role_exports.of_roles()
EXPRESSION = re.compile(r"\{\{ (\w+) \}\}")
KEYS = {
    "flows": {"from", "to", "along", "protocol", "ports", "why", "needed", "measured"},
    "metrics": {"names", "at", "ports", "path", "textfile"},
}
# A variable of nginx.
FOREIGN = {"deepseek_store_client"}

every_role = pytest.mark.parametrize("role", EXPORTS)
# What preflight asks for by name, for module_utils.
ASKED_BY_NAME = {
    *("deepseek_accepted_key_risks", "deepseek_copies"),
    *(systems.ACCEPTING, releases.LIST),
}


def sources(*directories: str) -> Iterator[Path]:
    """The files of roles and playbooks that say what is done, without what documents or exports."""
    for directory in directories:
        for path in sorted((ROOT / directory).rglob("*")):
            if path.suffix in (".yml", ".j2") and path.parent.name != "meta":
                yield path


def text_of(path: Path) -> str:
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def site_variables_in(text: str) -> set[str]:
    """Those that are there by name, and those that a filter reads of all hosts."""
    by_filter = set(releases.VARIABLES) if "onprem.deepseek.releases(" in text else set()
    named = set(re.findall(r"(?<![\w-])deepseek_[a-z0-9_]+\b(?!\.prom)", text))
    return (named | by_filter) - FOREIGN


def raw_flows(role: str) -> list[dict[str, Any]]:
    return list(EXPORTS[role].get("flows", ()))


@every_role
def test_an_export_has_the_keys_that_are_read(role: str) -> None:
    assert EXPORTS[role].keys() <= set(role_exports.KINDS)
    for kind, keys in KEYS.items():
        for one in EXPORTS[role].get(kind, ()):
            assert one.keys() <= keys, one
    for flow in raw_flows(role):
        assert flow["why"], flow
        assert flow.get("along", "measured") == "measured", flow
        assert ("along" in flow) != ("from" in flow and "to" in flow), flow
        # what must be let in is tried with TCP, between hosts of groups or from whole zones
        if flow.get("needed") or flow.get("measured"):
            assert flow["protocol"] == "tcp"
            assert all("/" in end for end in [flow["to"]])


@every_role
def test_a_role_exports_the_site_variables_that_it_reads(role: str) -> None:
    metrics = {
        name
        for path in (ROOT / "roles" / role).glob("templates/*.prom.j2")
        for name in site_variables_in(path.read_text())
    }
    read = {
        name
        for path in sources(f"roles/{role}")
        for name in site_variables_in(text_of(path)) - metrics
    }
    read |= site_variables_in(str(EXPORTS[role].get("flows", "")))
    assert sorted(EXPORTS[role].get("site_variables", ())) == sorted(
        read | (ASKED_BY_NAME if role == "preflight" else set())
    )


def test_the_site_variables_are_those_that_roles_export() -> None:
    exported = {name for said in EXPORTS.values() for name in said.get("site_variables", ())}
    assert exported == role_variables.entry_point("preflight", "site").keys()


def port_variables() -> dict[str, Any]:
    return {
        name: value
        for role in EXPORTS
        for name, value in role_variables.defaults(role).items()
        if name.endswith("_port")
    }


def exported_ports() -> list[Any]:
    return [
        port
        for role in EXPORTS
        for flow in raw_flows(role)
        if "ports" in flow
        for port in ([flow["ports"]] if isinstance(flow["ports"], str) else flow["ports"])
    ]


def test_every_port_of_a_role_is_in_a_flow() -> None:
    exported = " ".join(map(str, exported_ports()))
    assert len(port_variables()) > 5
    for name, value in port_variables().items():
        means = EXPRESSION.fullmatch(str(value))
        assert re.search(rf"\b{means[1] if means else name}\b|\b{name}\b", exported), name


def test_no_other_file_writes_a_port_down() -> None:
    numbers = {port for port in exported_ports() if isinstance(port, int) and port > 1023}
    numbers |= {value for value in port_variables().values() if isinstance(value, int)}
    assert {8405, 8442, 9100} <= numbers
    port = re.compile(rf"(?<![\w.])(?:{'|'.join(map(str, sorted(numbers)))})(?![\w.])")
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in [*sources("roles", "playbooks"), *ROOT.glob("plugins/module_utils/*/*.py")]
        for line in text_of(path).splitlines()
        if port.search(line) and not re.fullmatch(rf"\w+_port: {port.pattern}", line)
    ]
    assert found == [], "the role that has the port exports it"


def test_no_other_file_has_a_flow_of_its_own() -> None:
    flow = re.compile(r"\bfrom: [^\n]+?(?:,|\n) *to: [^\n]+?(?:,|\n) *protocol: ")
    assert flow.search("- {from: a, to: b, protocol: tcp}")
    assert flow.search("- from: a\n  to: b\n  protocol: tcp")
    found = [
        str(path.relative_to(ROOT))
        for path in sources("roles", "playbooks")
        if flow.search(text_of(path))
    ]
    assert found == [], "the role that needs the connection exports it"


def test_the_zones_of_a_host_follow_from_the_flows_of_its_groups() -> None:
    assert {group: set(zones) for group, zones in role_exports.zones_of_groups().items()} == {
        "gateway": {"management", "service", "inference"},
        "inference": {"management", "inference", "storage"},
        "storage": {"management", "storage"},
        "release": {"management", "storage"},
    }


def test_preflight_may_ask_wherever_it_measures() -> None:
    lets = [
        (flow["protocol"], source, target)
        for role, flow in role_exports.flows()
        if role == "preflight"
        for source in flow["from"]
        for target in flow["to"]
    ]
    measured = {
        (f"{zone}/{asks}", f"{zone}/{answers}") for asks, answers, zone in role_exports.measured()
    }
    assert set(lets) == {(protocol, *pair) for protocol in ("tcp", "udp") for pair in measured}


def test_a_role_that_exports_nothing_is_none_the_worse(tmp_path: Path) -> None:
    (tmp_path / "empty/meta").mkdir(parents=True)
    one = tmp_path / "one/meta"
    one.mkdir(parents=True)
    (one / "exports.yml").write_text(
        "flows: [{from: x/a, to: [x/b], protocol: tcp, ports: [1], why: w, needed: true}]\n"
    )
    assert list(role_exports.flows(tmp_path)) == [
        (
            "one",
            {
                "from": ["x/a"],
                "to": ["x/b"],
                "protocol": "tcp",
                "ports": [1],
                "why": "w",
                "needed": True,
                "measured": False,
            },
        )
    ]
    assert role_exports.measured(tmp_path) == ()
    assert role_exports.zones_of_groups(tmp_path) == {
        "a": ("management", "x"),
        "b": ("management", "x"),
    }
