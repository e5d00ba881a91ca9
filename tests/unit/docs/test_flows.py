# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of the standard flows is the one that the roles' exports make."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def flows() -> ModuleType:
    return load_script(ROOT / "tests/docs/flows.py", "flows")


def test_the_table_is_the_one_that_roles_export(flows: ModuleType) -> None:
    page = flows.PAGE.read_text(encoding="utf-8")
    assert page == flows.made(page), "run: python tests/docs/flows.py --write"
    assert "| `gateway` |" in page


def test_only_the_table_is_written(flows: ModuleType) -> None:
    made = flows.made(f"before\n\n{flows.HEAD}| old | row |\n\nafter\n")
    assert made.startswith("before\n\n| from |")
    assert made.endswith("`tls` |\n\nafter\n")
    assert "old" not in made


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ([53, "{{ deepseek_a_port }}"], "UDP 53, `deepseek_a_port`"),
        ("{{ x | map(attribute='deepseek_a') }}", "UDP of `deepseek_a`"),
    ],
)
def test_a_row(flows: ModuleType, ports: object, said: str) -> None:
    flow = {"from": ["a", "b"], "to": ["c"], "protocol": "udp", "ports": ports, "why": "w"}
    assert flows.row("r", flow) == f"| a, b | c | {said} | w | `r` |\n"
