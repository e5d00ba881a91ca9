# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which package of module_utils may import which, and how long a file may be."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
UTILS = ROOT / "plugins" / "module_utils"

# Who imports whom, by package: a new arrow is a decision, to be made here.
ARROWS: dict[str, set[str]] = {
    "artifacts": set(),
    "awx": {"inventory"},
    "bundle": {"artifacts", "common"},
    "checkpoint": set(),
    "common": set(),
    "gateway": {"common", "pkcs11"},
    "gpu": {"common"},
    "inventory": {"artifacts", "checkpoint", "common", "gpu", "pkcs11", "store"},
    "nvidia_driver": {"common", "gpu"},
    "pkcs11": {"common"},
    "preflight": {"common", "inventory", "pkcs11", "reports"},
    "reports": set(),
    "rollout": {"artifacts", "common", "gateway", "reports"},
    "serving": {"common"},
    "store": {"artifacts", "checkpoint", "common", "pkcs11"},
    "zones": {"common"},
}
# Part of the serving package and of programs on hosts; what they import beside stdlib.
SHARED: dict[str, set[str]] = {"artifacts": {"cryptography"}, "checkpoint": set()}

# Lines of a file, by where it is; tests and benchmarks are read as often as what they are about.
LIMITS = {
    "plugins/**/*.py": 500,
    "serving/src/**/*.py": 500,
    "serving/tests/**/*.py": 500,
    "serving/training/**/*.py": 500,
    "tests/**/*.py": 500,
    "benchmarks/**/*.py": 500,
    "molecule/**/*.py": 500,
    "molecule/**/*.yml": 500,
    "roles/*/tasks/*.yml": 150,
}

MODULES = sorted(path.relative_to(UTILS) for path in UTILS.rglob("*.py"))
every_module = pytest.mark.parametrize("module", MODULES, ids=str)


def nodes(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def targets(module: Path) -> set[Path]:
    """Modules of module_utils that one of them imports, by its relative imports."""
    found = set()
    for node in nodes(UTILS / module):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = module.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        one = base.with_suffix(".py")
        if node.module and (UTILS / one).is_file():
            found.add(one)
        else:
            found.update(base / f"{alias.name}.py" for alias in node.names)
    return found


def test_every_module_is_in_a_package() -> None:
    assert [path.name for path in UTILS.iterdir() if path.suffix == ".py"] == []
    assert {module.parts[0] for module in MODULES} == ARROWS.keys()
    assert [str(module) for module in MODULES if len(module.parts) != 2] == []


@every_module
def test_modules_import_what_is_there(module: Path) -> None:
    assert [str(one) for one in targets(module) if not (UTILS / one).is_file()] == []


def test_packages_import_only_those_that_they_may() -> None:
    found: dict[str, set[str]] = {package: set() for package in ARROWS}
    for module in MODULES:
        package = module.parts[0]
        found[package] |= {one.parts[0] for one in targets(module)} - {package}
    assert found == ARROWS


def test_no_module_imports_itself_in_a_circle() -> None:
    left = {module: targets(module) for module in MODULES}
    while True:
        leaves = {module for module, imported in left.items() if not imported & left.keys()}
        if not leaves:
            break
        left = {module: imported for module, imported in left.items() if module not in leaves}
    assert [str(module) for module in left] == []


@every_module
def test_imports_inside_are_relative(module: Path) -> None:
    """The same code runs under other names in the serving package and on hosts."""
    names = [
        name
        for node in nodes(UTILS / module)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    ]
    assert [name for name in names if name.startswith("ansible_collections")] == []


@pytest.mark.parametrize("package", SHARED)
def test_shared_packages_need_no_ansible(package: str) -> None:
    wrong = []
    for path in sorted((UTILS / package).glob("*.py")):
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom):
                names = [] if node.level else [node.module or ""]
            else:
                names = [alias.name for alias in node.names]
            allowed = sys.stdlib_module_names | SHARED[package]
            wrong += [
                f"{path.name}: {name}" for name in names if name.partition(".")[0] not in allowed
            ]
    assert wrong == []


@pytest.mark.parametrize("pattern", LIMITS)
def test_files_are_not_too_long(pattern: str) -> None:
    found = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in ROOT.glob(pattern)
    }
    assert found, "a pattern that finds no file limits none"
    limit = LIMITS[pattern]
    longer = {name: lines for name, lines in found.items() if lines > limit}
    assert longer == {}, (
        f"more than {limit} lines: divide it, with names that say what each half does"
    )
