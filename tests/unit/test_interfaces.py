# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role takes, and what others take of it, is documented, and nothing else is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# The longer name first, as model_release is longer than model.
ROLES = sorted((path.name for path in (ROOT / "roles").iterdir()), key=len, reverse=True)
SUFFIXES = (".yml", ".j2")


def sources() -> Iterator[tuple[str, Path]]:
    """The files with variables, with the role that they are of; playbooks are of none."""
    for directory in ("roles", "playbooks"):
        for path in sorted((ROOT / directory).rglob("*")):
            if path.suffix in SUFFIXES:
                inside = path.relative_to(ROOT).parts
                yield (inside[1] if inside[0] == "roles" else ""), path


def owner(name: str) -> str:
    return next((role for role in ROLES if name.startswith(f"{role}_")), "")


def test_no_private_name_of_a_role_is_used_outside_it() -> None:
    found = [
        (path.relative_to(ROOT), f"__{name}")
        for role, path in sources()
        for name in re.findall(r"(?<!\w)__([a-z]\w+)", path.read_text())
        if owner(name) not in ("", role)
    ]
    assert found == [], "leave a result, <role>_result, and document it in the role's README"


def test_results_that_others_use_are_documented_and_made() -> None:
    used = {
        name
        for role, path in sources()
        for name in re.findall(r"(?<![\w.])([a-z]\w+_result)\b", path.read_text())
        if owner(name) not in ("", role)
    }
    assert {"model_cache_result", "model_storage_result", "nvidia_driver_result"} <= used
    for name in sorted(used):
        directory = ROOT / "roles" / owner(name)
        assert f"`{name}`" in (directory / "README.md").read_text(), name
        tasks = "\n".join(path.read_text() for path in (directory / "tasks").glob("*.yml"))
        assert re.search(rf"register: {name}$|^ +{name}:", tasks, re.MULTILINE), name


INCLUDED = re.compile(r"(?:include|import)_tasks:(?:\n +file:)? *\"?([^\"\n]+?)\"?$", re.MULTILINE)
TEMPLATED = re.compile(r"\{\{.*?\}\}")


def load(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text()) if path.exists() else None) or {}


def text_of(path: Path) -> str:
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def files_of(directory: Path, entry: str) -> Iterator[Path]:
    """What an entry point can run: its tasks, those that they include, handlers and templates."""
    todo, seen = [directory / "tasks" / f"{entry}.yml"], set[Path]()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        yield path
        text = text_of(path)
        for name in INCLUDED.findall(text):
            todo += (directory / "tasks").glob(TEMPLATED.sub("*", name))
        if "notify:" in text:
            todo.append(directory / "handlers/main.yml")
        # one that is named by a variable can be any
        any_template = ' }}.j2"' in text
        todo += [
            path
            for path in (directory / "templates").glob("**/*.j2")
            if any_template or path.name in text
        ]


def read_by(role: str, entry: str) -> set[str]:
    """The words that an entry point uses, and those that the role's variables behind them use."""
    directory = ROOT / "roles" / role
    known = {**load(directory / "vars/main.yml"), **load(directory / "defaults/main.yml")}
    # a role that collects what roles export reads its own, too
    known["role_exports"] = load(directory / "meta/exports.yml")
    todo = re.findall(r"\w+", "\n".join(text_of(path) for path in files_of(directory, entry)))
    found: set[str] = set()
    while todo:
        word = todo.pop()
        if word not in found:
            found.add(word)
            todo += re.findall(r"\w+", str(known.get(word, "")))
    return found


@pytest.mark.parametrize("role", sorted(ROLES))
def test_an_entry_point_takes_the_variables_that_it_reads_and_no_others(role: str) -> None:
    specs = load(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]
    # those of the site are taken by the entry point that checks them
    known = {name for spec in specs.values() for name in spec["options"] if owner(name) == role}
    for entry, spec in specs.items():
        taken = {name for name in spec["options"] if not name.startswith("deepseek_")}
        assert taken == known & read_by(role, entry), entry


def test_what_is_behind_a_variable_counts_as_read() -> None:
    found = read_by("inference", "drain")
    assert "inference_drain_seconds" in found
    assert "inference_tls_dir" not in found
    assert "model_storage_allowed_clients" in read_by("model_storage", "renewed")
