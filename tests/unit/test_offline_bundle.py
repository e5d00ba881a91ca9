# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle has what roles install, and what a site takes of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
# What a site names itself, as its driver, is in offline_bundle_packages.
OF_THE_SITE = {"nvidia_driver_packages"}
# Of these the package is that of another variable.
ALIASES = {"tls_gateway_user_package": "haproxy"}

# Of expressions, what is no package.
WORDS = {"extract", "packages"}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def names_in(value: Any) -> set[str]:
    """Names in a list, or in the lists of an expression."""
    if isinstance(value, list):
        return {str(name) for name in value}
    return set(re.findall(r"'([a-z0-9][a-z0-9.+-]+)'", str(value)))


def installed_by_roles() -> set[str]:
    found: set[str] = set()
    for role in sorted((ROOT / "roles").iterdir()):
        if role.name == "offline_bundle":
            continue
        variables = {**load(role / "defaults/main.yml"), **load(role / "vars/main.yml")}
        for name, value in variables.items():
            if name in OF_THE_SITE:
                continue
            if name in ALIASES:
                found.add(ALIASES[name])
            elif name.endswith("_packages"):
                found |= names_in(value)
            elif name.endswith("_package") and value and "{{" not in str(value):
                found.add(str(value))
        for program in variables.get("__host_tools_catalog", {}).values():
            found |= set(program["packages"])
        for file in (role / "tasks").glob("*.yml"):
            for line in re.findall(r"host_packages_names: (.+)", file.read_text()):
                found |= names_in(yaml.safe_load(line)) - WORDS
    return {name for name in found if not name.startswith("{{")}


def test_a_bundle_has_every_package_that_a_role_installs() -> None:
    variables = load(ROOT / "roles/offline_bundle/vars/main.yml")
    there = set(variables["__offline_bundle_wanted"] + variables["__offline_bundle_provider"])
    wanted = installed_by_roles()
    assert {"haproxy", "nginx", "aria2", "softhsm2", "xfsprogs", "python3-venv"} <= wanted
    assert wanted - there == set()


def test_debian_releases_are_those_that_hosts_may_run() -> None:
    variables = load(ROOT / "roles/offline_bundle/vars/main.yml")
    platforms = load(ROOT / "roles/tls/meta/main.yml")["galaxy_info"]["platforms"]
    assert list(variables["__offline_bundle_debian"]) == platforms[0]["versions"]
