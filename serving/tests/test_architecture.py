"""The packages of deepseek_serving, and which of them may import which."""

from __future__ import annotations

import ast
import graphlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support import ROOT

PACKAGE = "deepseek_serving"
SOURCE = ROOT / "serving" / "src" / PACKAGE
# the collection's own, which are links here
SHARED = {"artifacts", "checkpoint"}
# what stands at the top beside the packages
MODULES = {"__init__", "cli", "errors", "log", "metrics", "server", "settings"}
# Each package or module, and what it may import; an arrow that nothing uses is taken out.
ALLOWED: dict[str, set[str]] = {
    "server": {
        "backends", "cli", "errors", "http", "log", "policy", "settings", "text", "trust",
    },
    "http": {"__init__", "backends", "errors", "generation", "metrics", "policy", "text"},
    "backends": {
        "check", "errors", "generation", "metrics", "model_files", "runtime", "settings", "text",
        "trust",
    },
    "compile": {"artifacts", "cli", "errors", "model_files", "runtime", "trust"},
    "export": {"__init__", "check", "checkpoint", "cli", "errors", "model_files", "text"},
    "prepare": {"__init__", "artifacts", "cli", "errors", "model_files", "text"},
    "metrics": {"generation", "policy", "trust"},
    "generation": {"errors", "runtime", "settings", "text"},
    "runtime": {"artifacts", "errors", "model_files", "trust"},
    "check": {"cli", "errors", "model_files", "text"},
    "policy": {"cli", "errors"},
    "trust": {"artifacts", "cli", "errors"},
    "model_files": {"artifacts", "checkpoint", "errors"},
    "text": {"errors"},
    "settings": {"artifacts", "errors"},
    "cli": {"errors"},
    "artifacts": set(),
    "checkpoint": set(),
    "log": set(),
    "errors": set(),
    "__init__": set(),
}  # fmt: skip
# What verifies is small, and loads nothing that parses or runs models.
MODEL_LIBRARIES = {"ml_dtypes", "numpy", "onnx", "onnxruntime", "tokenizers"}

Graph = Mapping[str, frozenset[str]]


def sources() -> dict[str, Path]:
    """Every module's file, by its dotted name; links are followed, as a wheel's builder does."""
    found = {}
    for folder, _folders, files in os.walk(SOURCE, followlinks=True):
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                parts = path.relative_to(SOURCE.parent).with_suffix("").parts
                found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imported(module: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """What a file imports, anywhere in it."""
    base = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) + 1 - node.level] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in known else source


@pytest.fixture(scope="module")
def graph() -> Graph:
    known = sources()
    return {module: frozenset(imported(module, path, known)) for module, path in known.items()}


def owner(module: str) -> str:
    """The package or top module that a module belongs to."""
    return (*module.split("."), "__init__")[1]


def reached(graph: Graph, package: str) -> set[str]:
    """All that is loaded with a package, by whatever way."""
    found: set[str] = set()
    left = [module for module in graph if owner(module) == package]
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left.extend(graph.get(module, ()))
    return found


def test_packages_import_only_what_the_table_allows(graph: Graph) -> None:
    """A new arrow is a decision: it is written into the table, or it is not made."""
    found: dict[str, set[str]] = {name: set() for name in ALLOWED}
    for module, imports in graph.items():
        for name in imports:
            if name.split(".")[0] == PACKAGE and owner(name) != owner(module):
                found.setdefault(owner(module), set()).add(owner(name))
    assert found == ALLOWED


def test_the_table_has_no_cycles() -> None:
    order = tuple(graphlib.TopologicalSorter(ALLOWED).static_order())
    assert order.index("errors") < order.index("server")


def test_the_top_holds_packages_and_entry_points_only() -> None:
    assert {path.stem for path in SOURCE.glob("*.py")} == MODULES
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages | MODULES | SHARED == set(ALLOWED)
    assert {path.parent.name for path in SOURCE.glob("*/*.py") if path.is_symlink()} == SHARED


@pytest.mark.parametrize("package", ["trust", *sorted(SHARED)])
def test_what_verifies_loads_no_library_of_models(graph: Graph, package: str) -> None:
    loaded = reached(graph, package)
    assert f"{PACKAGE}.{package}" in {name.rpartition(".")[0] for name in loaded}
    assert not {name.split(".")[0] for name in loaded} & MODEL_LIBRARIES
