# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each role says about itself agrees with what it is."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from yaml_mappings import mappings

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(directory.name for directory in (ROOT / "roles").iterdir() if directory.is_dir())
SCENARIOS = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))
VERBS = ["precheck", "install", "configure", "run", "check"]
INCLUDES = (
    "ansible.builtin.include_role",
    "ansible.builtin.import_role",
)

every_role = pytest.mark.parametrize("role", ROLES)


@functools.cache
def load(path: Path) -> Any:
    """The content of a file, which no test changes: hundreds ask for the same few."""
    return yaml.load(path.read_text(), yaml.CSafeLoader) if path.exists() else None


def specs(role: str) -> dict[str, Any]:
    found: dict[str, Any] = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")
    return found["argument_specs"]  # type: ignore[no-any-return]


def defaults(role: str) -> dict[str, Any]:
    return load(ROOT / "roles" / role / "defaults" / "main.yml") or {}


def walk(options: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, option in options.items():
        yield name, option
        yield from walk(option.get("options", {}))


def test_there_are_roles_and_scenarios() -> None:
    assert "tls" in ROLES
    assert "tls" in SCENARIOS


@every_role
def test_defaults_and_documentation_name_the_same_variables(role: str) -> None:
    documented = {name for spec in specs(role).values() for name in spec["options"]}
    with_default = {
        name
        for spec in specs(role).values()
        for name, option in spec["options"].items()
        if "default" in option
    }
    assert defaults(role).keys() - documented == set(), "not in meta/argument_specs.yml"
    assert with_default - defaults(role).keys() == set(), "not in defaults/main.yml"


@every_role
def test_documented_defaults_are_the_defaults(role: str) -> None:
    for entry, spec in specs(role).items():
        for name, option in spec["options"].items():
            if name in defaults(role):
                assert not option.get("required"), f"{entry}: {name} is required and has a default"
                if "{{" in str(defaults(role)[name]) and "default" not in option:
                    assert "default" in str(option["description"]).lower(), f"{entry}: {name}"
                else:
                    assert option.get("default") == defaults(role)[name], f"{entry}: {name}"


@every_role
def test_every_option_says_what_it_is(role: str) -> None:
    for entry, spec in specs(role).items():
        assert spec["short_description"], entry
        assert spec["description"], entry
        for name, option in walk(spec["options"]):
            assert option.get("type"), f"{entry}: {name} has no type"
            assert option.get("description"), f"{entry}: {name} has no description"
            assert option["type"] != "list" or option.get("elements"), f"{entry}: {name}"


@every_role
def test_variables_carry_the_name_of_the_role(role: str) -> None:
    private = load(ROOT / "roles" / role / "vars" / "main.yml") or {}
    assert [name for name in defaults(role) if not name.startswith(f"{role}_")] == []
    assert [name for name in private if not name.startswith(f"__{role}_")] == []


@every_role
def test_every_documented_entry_point_exists(role: str) -> None:
    tasks = {path.stem for path in (ROOT / "roles" / role / "tasks").glob("*.yml")}
    assert specs(role).keys() <= tasks
    assert "main" in specs(role)


def test_every_entry_point_in_use_is_documented() -> None:
    used = set()
    for directory in ("playbooks", "roles"):
        for path in (ROOT / directory).rglob("*.yml"):
            for mapping in mappings(load(path)):
                for include in INCLUDES:
                    call = mapping.get(include, {})
                    if "tasks_from" in call and "{{" not in call["name"]:
                        used.add((call["name"].rpartition(".")[2], call["tasks_from"]))
    assert ("model_release", "quorum") in used
    assert [use for use in sorted(used) if use[1] not in specs(use[0])] == []


@every_role
def test_steps_come_in_the_order_of_the_verbs(role: str) -> None:
    main = load(ROOT / "roles" / role / "tasks" / "main.yml")
    order = []
    for mapping in mappings(main):
        for action in ("ansible.builtin.include_tasks", "ansible.builtin.import_tasks"):
            if action in mapping:
                file = mapping[action]
                order.append(Path(file["file"] if isinstance(file, dict) else file).stem)
    steps = [step for step in order if step in VERBS]
    assert steps == sorted(steps, key=VERBS.index)


# It takes exact versions from the index, which is why it is run.
ASKS_THE_INDEX = {"host_packages", "nvidia_driver"}


@pytest.mark.parametrize("role", sorted(set(ROLES) - ASKS_THE_INDEX))
def test_no_role_asks_a_package_index_for_what_is_installed(role: str) -> None:
    for path in (ROOT / "roles" / role).rglob("*.yml"):
        for task in mappings(load(path)):
            options = task.get("ansible.builtin.apt")
            asked = {"update_cache", "cache_valid_time", "upgrade"} & set(options or {})
            assert not asked, f"{path}: use role host_packages"


@every_role
def test_readme_and_galaxy_information(role: str) -> None:
    readme = (ROOT / "roles" / role / "README.md").read_text()
    assert role in readme.splitlines()[0]
    meta = load(ROOT / "roles" / role / "meta" / "main.yml")
    info = meta["galaxy_info"]
    assert info["author"] == "onprem.deepseek maintainers"
    assert info["license"] == "GPL-3.0-or-later"
    # Galaxy wants it in each role, without a third number.
    wanted = load(ROOT / "meta/runtime.yml")["requires_ansible"]
    assert f">={info['min_ansible_version']}.0" == wanted
    assert info["description"]
    assert info["platforms"] == [{"name": "Debian", "versions": ["bookworm", "trixie"]}]
    assert meta["dependencies"] == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario_has_the_site_variables_of_the_lab(scenario: str) -> None:
    wanted = {path.resolve() for path in (ROOT / "inventories/lab/group_vars/all").glob("*.yml")}
    directory = ROOT / "molecule" / scenario / "inventory" / "group_vars" / "all"
    assert wanted
    assert wanted <= {path.resolve() for path in directory.glob("*.yml")}


def test_scenarios_do_not_share_networks() -> None:
    octets = {
        path: load(path)["all"]["vars"]["lab_octet"]
        for path in [
            *(ROOT / "molecule" / scenario / "inventory" / "hosts.yml" for scenario in SCENARIOS),
            ROOT / "inventories" / "lab" / "hosts.yml",
        ]
    }
    assert len(set(octets.values())) == len(octets), octets


UNITS = sorted(ROOT.glob("roles/*/templates/*.service.j2"))


@pytest.mark.parametrize("unit", UNITS, ids=[unit.name for unit in UNITS])
def test_no_unit_restarts_for_ever_on_what_a_restart_cannot_change(unit: Path) -> None:
    """The program says by its status that it is so (78, EX_CONFIG), or the starts are counted."""
    settings = [line.split("=", 1) for line in unit.read_text().split("\n") if "=" in line]
    of = dict(settings)
    if of.get("Restart", "no") == "no":
        return
    counted = "StartLimitBurst" in of and "StartLimitIntervalSec" in of
    assert of.get("RestartPreventExitStatus") == "78" or counted
