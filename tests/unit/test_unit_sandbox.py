# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What our services, and those that we configure, may do on a host, as systemd judges it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from played import KEPT_PYTHON, passed

from ansible_collections.onprem.deepseek.plugins.filter.unit_sandbox import SANDBOX, FilterModule

ROOT = Path(__file__).resolve().parents[2]
HOST = "gateway-1"
ADDRESSES = {
    "management": "10.0.1.1",
    "service": "10.0.2.1",
    "inference": "10.0.3.1",
    "storage": "10.0.4.1",
}
SITE = yaml.safe_load((ROOT / "inventories/lab/group_vars/all/site.yml").read_text())
INVENTORY = {
    "all": {
        "vars": SITE,
        "hosts": {HOST: {"ansible_connection": "local", "deepseek_zone_addresses": ADDRESSES}},
        "children": {
            group: {"hosts": {HOST: {}}} for group in ("gateway", "inference", "storage", "release")
        },
    }
}
DEBIAN = {"distribution": "Debian", "machine": "x86_64"}
# What the roles find out on a host.
FOUND: dict[str, Any] = {
    "ansible_facts": {**DEBIAN, "distribution_major_version": "12"},
    "__gateway_pin_is_encrypted": True,
    "host_tools_result": {
        "versions": dict.fromkeys(
            ("store", "gateway-probe", "rollout-judge", "rollout-watchdog"), "d" * 64
        )
    },
    "__inference_replicas": {
        "tiny-onprem/1.0.0": {
            "checkpoint": "c" * 64,
            "graphs": {"fp32": "a" * 64, "fp16": "b" * 64},
        }
    },
}
GPU = {"inference_engine_flavour": "onnxruntime_cuda", "inference_precision": "fp16"}
UPSTREAM = {"inference_upstream_command": ["vllm", "serve", "/srv/model"]}
DEBIAN_13 = {"ansible_facts": {**DEBIAN, "distribution_major_version": "13"}}
LABEL = {"gateway_token_label": "two words % $ é"}
NO_GPU = {**UPSTREAM, "inference_upstream_gpus": False}
SCRUB = {"item": {"key": "scrub", "value": "Hash"}}
SYNC = {"item": {"key": "sync", "value": "Pull what this store lacks"}}
# Each unit of ours, in every form that it has.
UNITS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gateway": ("gateway", "deepseek-gateway.service", {}),
    "gateway, Debian 13": ("gateway", "deepseek-gateway.service", DEBIAN_13),
    "gateway detour": ("gateway", "deepseek-gateway-detour.service", {}),
    "gateway probe": ("gateway", "deepseek-gateway-probe.service", LABEL),
    "worker": ("inference", "deepseek-inference@.service", {}),
    "worker on GPUs": ("inference", "deepseek-inference@.service", GPU),
    "worker with an upstream": ("inference", "deepseek-inference@.service", UPSTREAM),
    "upstream on GPUs": ("inference", "deepseek-upstream.service", UPSTREAM),
    "upstream without GPUs": ("inference", "deepseek-upstream.service", NO_GPU),
    "sync of the store": ("model_storage", "deepseek-store.service", SYNC),
    "scrub of the store": ("model_storage", "deepseek-store.service", SCRUB),
    "judge of canaries": ("release_rollout", "deepseek-rollout-judge.service", {}),
    "watchdog of canaries": ("release_rollout", "deepseek-rollout-watchdog.service", {}),
    "zones": ("network_segmentation", "deepseek-zones.service", {}),
    "watch of the zones": ("network_segmentation", "deepseek-zones-watch.service", {}),
}  # fmt: skip
# Units of a distribution that get a drop-in: what it starts from.
NGINX = "Type=forking\nExecStart=/usr/sbin/nginx\n"
LOW_PORT = {"model_storage_port": 443}
DROP_INS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "nginx": ("model_storage", "nginx-sandbox.conf", NGINX, {}),
    "nginx on a low port": ("model_storage", "nginx-sandbox.conf", NGINX, LOW_PORT),
}


def read(*parts: str) -> dict[str, Any]:
    loaded = yaml.safe_load(ROOT.joinpath(*parts).read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}


def play(name: str, role: str, template: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Render a template as its role does, with the role's own variables and those of the lab."""
    variables: dict[str, Any] = {}
    for part in ("defaults", "vars"):
        variables |= read("roles", role, part, "main.yml")
    source = ROOT / "roles" / role / "templates" / f"{template}.j2"
    return {
        "hosts": HOST,
        "gather_facts": False,
        "vars": variables | FOUND | changes,
        "tasks": [{"ansible.builtin.template": {"src": str(source), "dest": name, "mode": "0644"}}],
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every unit and drop-in, by its name here."""
    directory = tmp_path_factory.mktemp("units")
    wanted = UNITS | {
        name: (role, template, changes)
        for name, (role, template, _base, changes) in DROP_INS.items()
    }
    plays = [play(str(directory / name), *unit) for name, unit in wanted.items()]
    (directory / "hosts.yml").write_text(yaml.safe_dump(INVENTORY), encoding="utf-8")
    (directory / "play.yml").write_text(yaml.safe_dump(plays), encoding="utf-8")
    passed(directory / "play.yml", inventory=directory / "hosts.yml", **KEPT_PYTHON)
    return {name: (directory / name).read_text(encoding="utf-8") for name in wanted}


def analyze(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )


def judge(unit: Path, threshold: int) -> str:
    """The verdict of systemd, or an empty text up to the threshold, in tenths."""
    command = ["security", "--no-pager", "--offline=yes", f"--threshold={threshold}", str(unit)]
    verdict = analyze(command)
    return "" if verdict.returncode == 0 else verdict.stdout + verdict.stderr


def directives(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("name", UNITS)
def test_exposure_of_every_unit_of_ours_is_at_most_two(
    name: str, rendered: dict[str, str], tmp_path: Path
) -> None:
    template = UNITS[name][1]
    unit = tmp_path / template.replace("@", "")
    unit.write_text(rendered[name], encoding="utf-8")
    assert judge(unit, 20) == ""


@pytest.mark.parametrize("name", DROP_INS)
def test_exposure_of_a_unit_with_our_drop_in_is_at_most_two(
    name: str, rendered: dict[str, str], tmp_path: Path
) -> None:
    _role, _template, base, _changes = DROP_INS[name]
    unit = tmp_path / "nginx.service"
    unit.write_text(f"[Service]\n{base}", encoding="utf-8")
    assert judge(unit, 90) != "", "the judgment must be able to fail"
    unit.write_text(f"[Service]\n{base}{rendered[name]}", encoding="utf-8")
    assert judge(unit, 20) == ""


def test_every_service_of_ours_is_judged() -> None:
    templates = {path.name.removesuffix(".j2") for path in (ROOT / "roles").rglob("*.service.j2")}
    assert templates == {template for _role, template, _changes in UNITS.values()}


@pytest.mark.parametrize("name", [*UNITS, *DROP_INS])
def test_memory_of_every_unit_is_neither_dumped_nor_swapped(
    name: str, rendered: dict[str, str]
) -> None:
    found = directives(rendered[name])
    assert found["LimitCORE"] == found["CoredumpFilter"] == found["MemorySwapMax"] == ["0"]


@pytest.mark.parametrize("name", UNITS)
def test_systemd_knows_every_directive(name: str, rendered: dict[str, str], tmp_path: Path) -> None:
    template = UNITS[name][1]
    unit = tmp_path / template.replace("@", "")
    unit.write_text(rendered[name], encoding="utf-8")
    checked = analyze(["verify", "--man=no", "--recursive-errors=no", str(unit)])
    # programs and users of the units are on the hosts, not here
    assert [
        line
        for line in checked.stderr.splitlines()
        if "Unknown key" in line or "Failed to parse" in line or "Invalid" in line
    ] == []


def test_no_unit_writes_a_directive_of_the_sandbox_beside_it(rendered: dict[str, str]) -> None:
    once = {name for group in SANDBOX.values() for name in group} - {"SystemCallFilter"}
    for name, text in rendered.items():
        found = directives(text)
        assert [key for key in found if key in once and len(found[key]) > 1] == [], name


@pytest.mark.parametrize("name", ["gateway probe"])
def test_a_token_label_is_one_argument(name: str, rendered: dict[str, str]) -> None:
    assert r'--token "two words %% $$ \u00e9" ' in rendered[name]


def test_differences_replace_drop_and_repeat() -> None:
    sandbox = FilterModule().filters()["unit_sandbox"]
    found = directives(
        sandbox(
            {
                "ProtectHome": "read-only",
                "PrivateUsers": None,
                "SystemCallFilter": ["@default", "~chown"],
            }
        )
    )
    assert found["ProtectHome"] == ["read-only"]
    assert "PrivateUsers" not in found
    assert found["SystemCallFilter"] == ["@default", "~chown"]
    assert found["CapabilityBoundingSet"] == [""]
    assert len(found) == sum(len(group) for group in SANDBOX.values()) - 1


@pytest.mark.parametrize(
    ("differences", "problem"),
    [
        ({"ProtectHomes": "yes"}, "ProtectHomes is no directive"),
        ({"ProtectHome": True}, "must be a string of one line"),
        ({"UMask": "0077\nUser=root"}, "must be a string of one line"),
        ({"SystemCallFilter": ["@default", 1]}, "must be a string of one line"),
    ],
)
def test_differences_that_systemd_would_not_take_are_refused(
    differences: dict[str, Any], problem: str
) -> None:
    with pytest.raises(AnsibleFilterError, match=problem):
        FilterModule().filters()["unit_sandbox"](differences)
