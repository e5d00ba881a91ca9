# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/architecture.md has the packages of module_utils and the imports between them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ROOT / "plugins/module_utils"
PREFIX = "ansible_collections.onprem.deepseek.plugins.module_utils"


def rows(heading: str) -> dict[str, str]:
    """First and second column of the table whose head begins so."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = page.split(f"\n{heading}\n|---|---|\n")[1].split("\n\n")[0]
    found = (line.strip("| ").split(" | ") for line in table.splitlines())
    return {name: second for first, second in found for name in re.findall(r"`(\w+)`", first)}


def imported(path: Path) -> Iterator[str]:
    """The packages of module_utils that a file of one imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if node.level == 2:
            yield from [module.split(".")[0]] if module else [name.name for name in node.names]
        elif module == PREFIX:
            yield from [name.name for name in node.names]
        elif module.startswith(PREFIX):
            yield module[len(PREFIX) + 1 :].split(".")[0]


def test_the_packages() -> None:
    there = {path.name for path in PACKAGES.iterdir() if any(path.glob("*.py"))}
    assert set(rows("| package | what it knows |")) == there


def test_the_imports() -> None:
    documented = {
        name: set(re.findall(r"`(\w+)`", second))
        for name, second in rows("| package | imports |").items()
    }
    real = {
        package.name: {name for path in package.rglob("*.py") for name in imported(path)}
        - {package.name}
        for package in PACKAGES.iterdir()
        if any(package.glob("*.py"))
    }
    assert documented == real
