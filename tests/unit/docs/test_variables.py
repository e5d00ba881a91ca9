# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of site variables is the one that the code and the example inventory make."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

ROOT = Path(__file__).resolve().parents[3]
RULES = {"deepseek_a": ("a port", True), "deepseek_b": ("a list", False)}
EXAMPLE = """\
---
# Head of the file.

##### Ports

# One explanation
# of two.
deepseek_a: 1
deepseek_b:
  # inside
  - x
# Another.
#   one   the first
deepseek_c: 2
"""


@pytest.fixture(scope="module")
def variables() -> ModuleType:
    return load_script(ROOT / "tests/docs/variables.py", "variables")


def test_the_page_is_the_one_that_the_code_makes(variables: ModuleType) -> None:
    assert variables.PAGE.read_text(encoding="utf-8") == variables.made(), (
        "run: python tests/docs/variables.py --write"
    )


def test_the_example_has_every_variable(variables: ModuleType) -> None:
    example = variables.EXAMPLE.read_text(encoding="utf-8")
    explained = [name for block in variables.blocks(example) if block.text for name in block.names]
    page = variables.PAGE.read_text(encoding="utf-8")
    table = page.split("| variable | must be | |")[1].split("\n\n")[0]
    missing = [line for line in table.splitlines() if "deepseek_" in line and "](#" not in line]
    assert missing == []
    assert len(explained) == len(set(explained)) == table.count("](#")


def test_blocks_of_an_inventory(variables: ModuleType) -> None:
    found = list(variables.blocks(EXAMPLE))
    assert [block.names for block in found] == [["deepseek_a", "deepseek_b"], ["deepseek_c"]]
    assert found[0].text == "One explanation\nof two."
    assert found[1].heading == "Ports"
    assert "  # inside\n  - x" in found[0].code


def test_a_page(variables: ModuleType) -> None:
    page = variables.page(RULES, EXAMPLE, {"deepseek_a": ["gateway", "tls"]})
    assert "| [`deepseek_a`](#deepseek_a) | a port | required | gateway, tls |" in page
    assert "### `deepseek_b`\n\nOne explanation\nof two.\n" in page
    assert "Another.\n\n- `one`: the first\n" in page
