# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A broken host, and a variable that cannot be read, are rows of preflight and hide nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from played import play

ROOT = Path(__file__).resolve().parents[3]
SITE = ROOT / "inventories/lab/group_vars/all/site.yml"
ZONES = ("management", "service", "inference", "storage")
SUDO = "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n"


class Vaulted(str):
    """A text that is encrypted with a password which the run does not have."""

    __slots__ = ()


yaml.SafeDumper.add_representer(
    Vaulted, lambda dumper, text: dumper.represent_scalar("!vault", text, style="|")
)


def preflight(
    directory: Path,
    hosts: dict[str, dict[str, Any]],
    groups: dict[str, list[str]],
    *options: str,
    **variables: Any,
) -> tuple[int, str, list[dict[str, str]]]:
    """Run the playbook; gives its status, what it said, and what was not met."""
    inventory = {
        "all": {
            "vars": {
                **yaml.safe_load(SITE.read_text()),
                "lab_octet": 112,
                "ansible_connection": "local",
                "ansible_become": False,
                "ansible_python_interpreter": sys.executable,
                "deepseek_store_dir": str(directory / "store"),
                "deepseek_checkpoint": str(ROOT / "tests/fixtures/checkpoint"),
                "preflight_network": "off",
                "preflight_report_dir": str(directory / "report"),
                **variables,
            },
            "hosts": hosts,
            "children": {
                group: {"hosts": {name: {} for name in names}} for group, names in groups.items()
            },
        }
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
    done = play(ROOT / "playbooks/preflight.yml", *options, inventory=directory / "hosts.yml")
    report = directory / "report" / "preflight.json"
    assert report.exists(), done.said
    checks = json.loads(report.read_text())["checks"]
    return done.status, done.said, [one for one in checks if one["status"] == "failed"]


def at(number: int) -> dict[str, Any]:
    return {"deepseek_zone_addresses": dict.fromkeys(ZONES, f"127.0.0.{number}")}


def test_one_broken_host_hides_nothing_of_the_others(tmp_path: Path) -> None:
    """Kinds: a host that drops out; a missing group; a template, secret or file that is missing."""
    sudo = tmp_path / "sudo"
    sudo.write_text(SUDO)
    sudo.chmod(0o755)
    hosts: dict[str, dict[str, Any]] = {
        # the first one, on which what is asked once would be asked
        "connection": {**at(1), "ansible_host": "{{ nope }}"},
        "down": {
            **at(2),
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": 1,
        },
        "good": at(3),
        "no-python": {**at(4), "ansible_python_interpreter": "/nonexistent/python3"},
        "sudo": {
            **at(5),
            "ansible_become": True,
            "ansible_become_user": "nobody",
            "ansible_become_exe": str(sudo),
        },
        "template": {**at(6), "deepseek_store_dir": "{{ nope }}"},
        "unfinished": {"deepseek_zone_addresses": "{{ nope }}"},
        "vaulted": {
            **at(7),
            "deepseek_service_name": Vaulted("$ANSIBLE_VAULT;1.1;AES256\n6162\n"),
        },
        "Big_1": at(8),
    }
    groups = {"gateway": ["good"], "inference": list(hosts), "release": ["good"]}
    status, said, wrong = preflight(
        tmp_path,
        hosts,
        groups,
        *("--extra-vars", "deepseek_zones_enforced=true"),
        deepseek_api_keys_file="/nope",
        gateway_max_conections=5,
        model_release_quorom=2,
        gateway_port="many",
    )
    assert status == 2
    assert f"{len(wrong)} things to put right; nothing was changed." in said
    rows = [
        " ".join(f"{one['host']} {one['name']}: {one['found']} | {one['remedy']}".split())
        for one in wrong
    ]
    expected = [
        "group storage groups: it has no hosts",
        "Big_1 names: it has 'B', '_', which no host name in a certificate has | Name it with",
        "deepseek_store_sources variables: it cannot be read for Big_1, connection, down, good,",
        "ansible_host variables: it cannot be read for connection: 'nope' is undefined | Correct",
        "deepseek_store_dir variables: it cannot be read for template: 'nope' is undefined",
        "deepseek_zone_addresses variables: it cannot be read for unfinished: 'nope' is undefined",
        "deepseek_service_name variables: it cannot be read for vaulted: ",
        "deepseek_zones_enforced variables: it is 'true' | It must be true or false; on the",
        "deepseek_api_keys_file variables: it is /nope, which is not on the controller | Leave",
        "gateway_max_conections variables: no role has a variable of this name",
        "model_release_quorom variables: no role has a variable of this name",
        "gateway_port variables: it is 'many' | It must be int",
        "down reachable: it cannot be used: ",
        "no-python reachable: it cannot be used: ",
        "sudo reachable: it cannot be used: ",
        "good serving_environment: serving_environment_wheels_dir: ",
    ]
    for text in expected:
        assert len([row for row in rows if row.startswith(text)]) >= 1, (text, rows)
    by_start = {text: next(row for row in rows if row.startswith(text)) for text in expected}
    assert "Let its user run sudo" in by_start["sudo reachable: it cannot be used: "]
    assert "Install Python 3 on it" in by_start["no-python reachable: it cannot be used: "]
    assert (
        "--ask-vault-pass"
        in by_start["deepseek_service_name variables: it cannot be read for vaulted: "]
    )
    wheels = by_start["good serving_environment: serving_environment_wheels_dir: "]
    assert "holds no fetched wheels" in wheels
    assert "| Run onprem.deepseek.bundle_fetch" in wheels
    assert not [row for row in rows if "One or more items failed" in row]
    # every row has a remedy, and the host that is well is judged
    assert not [row for row in rows if row.endswith("| ")]
    assert [row for row in rows if row.startswith("good address: it has no address 127.0.0.3")]


def test_an_inventory_of_which_no_host_can_be_described_is_judged(tmp_path: Path) -> None:
    """Kind: what is asked once is asked by nobody when all hosts drop out."""
    status, said, wrong = preflight(
        tmp_path, {"one": at(1)}, {"gateway": ["one"]}, "--check", ansible_host="{{ nope }}"
    )
    assert status == 2
    assert "things to put right; nothing was changed." in said
    found = {(one["host"], one["name"]) for one in wrong}
    assert {("ansible_host", "variables"), ("group inference", "groups")} <= found


def test_a_variable_that_is_made_of_other_hosts_can_be_read() -> None:
    """Kind: what only a whole inventory has, as hostvars, missing where each host is read alone."""
    read = "{{ query('onprem.deepseek.site_variables', 'storage-1') | map(attribute='unread') }}"
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible")),
            *("storage-1", "--inventory", str(ROOT / "inventories/lab"), "--connection", "local"),
            *("--module-name", "ansible.builtin.debug", "--args", f'msg="{read}"'),
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "- {}" in done.stdout, done.stdout
