# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The prepared image of the test hosts has what roles and scenarios install, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml_mappings import mappings

ROOT = Path(__file__).resolve().parents[3]
# Of a disk of its own, which no test host has.
NOT_ON_TEST_HOSTS = {"xfsprogs"}


def prepared() -> set[str]:
    lines = (ROOT / "tests/lab/prepared-packages").read_text().splitlines()
    return {line for line in lines if not line.startswith("#")}


def documents(pattern: str) -> Iterator[Any]:
    for path in ROOT.glob(pattern):
        yield yaml.safe_load(path.read_text())


def names(value: Any) -> set[str]:
    """The packages that a list names, or those in the lists of an expression that makes one."""
    if isinstance(value, list):
        return {name for name in value if "{{" not in name}
    lists = " ".join(re.findall(r"\[[^][]*\]", value))
    return set(re.findall(r"'([a-z0-9][a-z0-9.+-]+)'", lists))


def image(scenario: str) -> str:
    """The image that a scenario's hosts begin with."""
    said = [ROOT / ".config/molecule/config.yml", ROOT / f"molecule/{scenario}/molecule.yml"]
    environments = [
        ((yaml.safe_load(path.read_text()) or {}).get("ansible") or {}).get("env", {})
        for path in said
    ]
    return str({**environments[0], **environments[1]}["LAB_IMAGE"])


def installed() -> set[str]:
    """What variables and tasks of the roles name, and what scenarios install themselves."""
    found: set[str] = set()
    for kind in ("defaults", "vars"):
        for variables in documents(f"roles/*/{kind}/main.yml"):
            for name, value in (variables or {}).items():
                if name.endswith("_packages"):
                    found |= names(value)
                for below in mappings(value):
                    found |= names(below.get("packages", []))
                single = kind == "defaults" and name.endswith("_package")
                if single and "{{" not in value:
                    found |= {value} - {""}
    for tasks in documents("roles/*/tasks/*.yml"):
        for task in mappings(tasks):
            if "host_packages_names" in task:
                found |= names(task["host_packages_names"])
    for prepare in ROOT.glob("molecule/*/prepare.yml"):
        if image(prepare.parent.name) == "bare":
            continue
        for task in mappings(yaml.safe_load(prepare.read_text())):
            value = task.get("ansible.builtin.apt", {}).get("name", [])
            found |= names([value] if isinstance(value, str) else value)
    return found


def test_the_prepared_image_has_what_is_installed_and_no_more() -> None:
    assert prepared() == installed() - NOT_ON_TEST_HOSTS


def test_what_installs_from_nothing_begins_with_nothing() -> None:
    scenarios = [path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")]
    bare = {name for name in scenarios if image(name) == "bare"}
    assert bare == {"nvidia_driver", "serving_environment", "site"}
