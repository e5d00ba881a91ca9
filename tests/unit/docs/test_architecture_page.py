# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/architecture.md has a row for each package of module_utils."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ROOT / "plugins/module_utils"


def rows(heading: str) -> dict[str, str]:
    """First and second column of the table whose head begins so."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = page.split(f"\n{heading}\n|---|---|\n")[1].split("\n\n")[0]
    found = (line.strip("| ").split(" | ") for line in table.splitlines())
    return {name: second for first, second in found for name in re.findall(r"`(\w+)`", first)}


def test_the_packages() -> None:
    there = {path.name for path in PACKAGES.iterdir() if any(path.glob("*.py"))}
    assert set(rows("| package | what it knows |")) == there
