# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one role takes from another is documented, and nothing else is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The longer name first, as model_release is longer than model.
ROLES = sorted((path.name for path in (ROOT / "roles").iterdir()), key=len, reverse=True)
SUFFIXES = (".yml", ".j2")


def sources() -> Iterator[tuple[str, Path]]:
    """The files with variables, with the role that they are of; playbooks are of none."""
    for folder in ("roles", "playbooks"):
        for path in sorted((ROOT / folder).rglob("*")):
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
        folder = ROOT / "roles" / owner(name)
        assert f"`{name}`" in (folder / "README.md").read_text(), name
        tasks = "\n".join(path.read_text() for path in (folder / "tasks").glob("*.yml"))
        assert re.search(rf"register: {name}$|^ +{name}:", tasks, re.MULTILINE), name
