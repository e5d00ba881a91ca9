"""The packages of deepseek_serving, and which of them may import which."""

from __future__ import annotations

import graphlib

import grimp
import pytest
from support import ROOT

PACKAGE = "deepseek_serving"
SOURCE = ROOT / "serving" / "src" / PACKAGE
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
    "compile": {"cli", "errors", "model_files", "runtime", "trust"},
    "export": {"__init__", "check", "cli", "errors", "model_files", "text"},
    "prepare": {"__init__", "cli", "errors", "model_files", "text", "trust"},
    "metrics": {"generation", "policy", "trust"},
    "generation": {"errors", "runtime", "text"},
    "runtime": {"errors", "model_files", "trust"},
    "check": {"cli", "errors", "model_files", "text"},
    "policy": {"cli", "errors"},
    "trust": {"cli", "errors"},
    "model_files": {"errors", "text"},
    "text": {"errors"},
    "settings": {"errors"},
    "cli": {"errors"},
    "log": set(),
    "errors": set(),
    "__init__": set(),
}  # fmt: skip
# What verifies is small, and loads nothing that parses or runs models.
MODEL_LIBRARIES = {"ml_dtypes", "numpy", "onnx", "onnxruntime", "tokenizers"}
LONGEST = 500
# may only shrink
LONGER: dict[str, int] = {}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(PACKAGE, include_external_packages=True, cache_dir=None)


def owner(module: str) -> str:
    """The package or top module that a module belongs to."""
    return (*module.split("."), "__init__")[1]


def test_packages_import_only_what_the_table_allows(graph: grimp.ImportGraph) -> None:
    """A new arrow is a decision: it is written into the table, or it is not made."""
    found: dict[str, set[str]] = {name: set() for name in ALLOWED}
    for module in graph.modules:
        if not module.startswith(PACKAGE):
            continue
        for imported in graph.find_modules_directly_imported_by(module):
            if imported.startswith(PACKAGE) and owner(imported) != owner(module):
                found.setdefault(owner(module), set()).add(owner(imported))
    assert found == ALLOWED


def test_the_table_has_no_cycles() -> None:
    order = tuple(graphlib.TopologicalSorter(ALLOWED).static_order())
    assert order.index("errors") < order.index("server")


def test_the_top_holds_packages_and_entry_points_only() -> None:
    assert {path.stem for path in SOURCE.glob("*.py")} == MODULES
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages | MODULES == set(ALLOWED)


@pytest.mark.parametrize("package", ["trust"])
def test_what_verifies_loads_no_library_of_models(graph: grimp.ImportGraph, package: str) -> None:
    name = f"{PACKAGE}.{package}"
    modules = {name} | graph.find_descendants(name)
    above = graph.find_upstream_modules(name, as_package=True) | modules
    assert not {module.split(".")[0] for module in above} & MODEL_LIBRARIES


def test_no_file_is_longer_than_one_can_read() -> None:
    longer = {}
    for path in SOURCE.rglob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST:
            longer[path.relative_to(SOURCE).as_posix()] = lines
    assert longer == LONGER
