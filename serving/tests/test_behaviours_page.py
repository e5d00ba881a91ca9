"""The page of what other servers expect, and the tests that it names."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from support import ROOT

PAGE = ROOT / "docs" / "reference" / "behaviours.md"
TESTS = Path(__file__).parent
NAMED = re.compile(r"`([a-z_/]+\.py)::(test_\w+)`(?: \*([^*]+)\*)?")
LEAST = 200


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def rows(kind: str) -> list[list[str]]:
    """Cells of the tables of the page whose last column is called so."""
    found: list[list[str]] = []
    tables = PAGE.read_text(encoding="utf-8").split("\n\n")
    for table in tables:
        lines = table.splitlines()
        if lines and lines[0].endswith(f"| {kind} |"):
            cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
            found += [[cell.strip() for cell in row] for row in cells]
    return found


@pytest.mark.parametrize("row", rows("test"), ids=lambda row: row[0][:60])
def test_what_the_page_says_is_tested_has_its_test(row: list[str]) -> None:
    _behaviour, servers, test = row
    assert servers == "-" or set(servers.split()) <= set("VSL")
    named = NAMED.fullmatch(test)
    assert named is not None, test
    file, name, case = named.groups()
    assert name in functions(file)
    assert case is None or f'"{case}"' in (TESTS / file).read_text(encoding="utf-8")


def test_the_page_counts_what_it_has() -> None:
    counted = re.search(r"(\d+) behaviours are tested", PAGE.read_text(encoding="utf-8"))
    assert counted is not None
    assert int(counted[1]) == len(rows("test")) >= LEAST
    assert all(len(row) == 3 and row[2] for row in rows("why"))
