# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fact has one definition: a second one fails; what specifications repeat agrees with it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.precisions import (
    EXPORTED,
    PREPARED,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import systems
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.flavours import FLAVOURS
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver import (
    systems as driver_systems,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.placement import REPLICAS

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted(
    path
    for pattern in (
        "plugins/**/*.py",
        "roles/**/*.yml",
        "roles/**/*.j2",
        "playbooks/*.yml",
        "serving/src/**/*.py",
    )
    for path in ROOT.glob(pattern)
    if not path.is_symlink()
)
# The literal of a fact, and the file that defines it.
LITERALS = {
    "name of a model or version": (
        r"\[A-Za-z0-9\]\[A-Za-z0-9\._-\]\{0,127\}",
        "plugins/module_utils/artifacts/names.py",
    ),
    "limit of a safetensors header": (
        r"100_000_000|100000000|100 \* 2\*\*20|100 \* 1024 \* 1024",
        "plugins/module_utils/checkpoint/weights.py",
    ),
    "flavours of compiled engines": (
        r"[\[({]['\"]tensorrt['\"], ['\"]tensorrt_rtx['\"]",
        "plugins/module_utils/artifacts/engines.py",
    ),
    "flavours that need a GPU": (
        r"['\"]onnxruntime_cuda['\"], ['\"]tensorrt['\"]|[\[(]ON_CUDA, ",
        "plugins/module_utils/inventory/flavours.py",
    ),
    "file of a compiled engine": (
        r"['\"]engine\.plan['\"]",
        "plugins/module_utils/artifacts/engines.py",
    ),
    "systems that are supported": (
        r"['\"]12['\"](?:: [^,]+)?, ['\"]13['\"]",
        "plugins/module_utils/inventory/systems.py",
    ),
    "precisions that are prepared": (
        r"[\[{(]['\"]fp16['\"](?:: \w+)?, ['\"]bf16['\"](?:: \w+)?, ['\"]int8['\"]",
        "plugins/module_utils/checkpoint/precisions.py",
    ),
    "hosts that hold a release": (
        r"(?:REPLICAS|QUORUM|quorum) = 3\b",
        "plugins/module_utils/store/placement.py",
    ),
}


@pytest.mark.parametrize("fact", LITERALS)
def test_a_fact_is_written_down_once(fact: str) -> None:
    literal, place = LITERALS[fact]
    found = [
        str(path.relative_to(ROOT)) for path in SOURCES if re.search(literal, path.read_text())
    ]
    assert found == [place], "read it from its definition; in YAML, through a filter"


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def choices(options: dict[str, Any], where: str) -> Iterator[tuple[str, list[str]]]:
    """Every list of choices below a mapping of options, by its option."""
    for name, option in options.items():
        if "choices" in option:
            yield f"{where}: {name}", option["choices"]
        for below in ("options", "suboptions"):
            yield from choices(option.get(below) or {}, where)


def all_choices() -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        for entry in loaded(path)["argument_specs"].values():
            found.update(choices(entry.get("options") or {}, path.parents[1].name))
    for path in sorted(ROOT.glob("plugins/doc_fragments/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and "options:" in str(node.value):
                found.update(choices(yaml.safe_load(str(node.value))["options"], path.stem))
    return sorted(found.items())


CHOICES = all_choices()


def test_specifications_offer_the_precisions_that_there_are() -> None:
    offered = {where: values for where, values in CHOICES if "int8" in values}
    assert len(offered) > 3
    for where, values in offered.items():
        assert [value for value in values if value != EXPORTED] == list(PREPARED), where


def test_specifications_offer_the_flavours_that_there_are() -> None:
    offered = {where: values for where, values in CHOICES if "onnxruntime_cuda" in values}
    assert offered
    for where, values in offered.items():
        assert sorted(values) == sorted(FLAVOURS), where


def test_a_copy_on_every_holder_is_needed_by_default() -> None:
    quorums = {
        name: value
        for path in ROOT.glob("roles/*/defaults/main.yml")
        for name, value in (loaded(path) or {}).items()
        if name.endswith("_quorum")
    }
    assert quorums
    assert set(quorums.values()) == {f"{{{{ deepseek_copies | default({REPLICAS}) }}}}"}


def test_the_driver_knows_all_accepted_systems() -> None:
    accepted = {
        (name.lower(), version)
        for table in (systems.TESTED, systems.UNTESTED)
        for name, versions in table.items()
        for version in versions
    }
    assert accepted <= driver_systems.SYSTEMS.keys()


def test_every_accepted_system_has_the_locks_of_its_python() -> None:
    locks = {path.name for path in (ROOT / "serving").glob("requirements*-py*.txt")}
    assert locks == {
        f"requirements{kind}-py{python}.txt"
        for kind in ("", "-cuda", "-tensorrt-rtx")
        for python in systems.PYTHONS
    }
    # what is fetched unless a site says otherwise is what tested systems need
    role = loaded(ROOT / "roles/serving_environment/defaults/main.yml")
    fetched = role["serving_environment_python_versions"]
    assert set(fetched) == {
        python for versions in systems.TESTED.values() for python in versions.values()
    }


def test_gateway_and_service_take_bodies_of_the_same_size() -> None:
    text = (ROOT / "serving/src/deepseek_serving/http/admission.py").read_text()
    found = re.search(r"^LARGEST_BODY = (\d+) \* 2\*\*20$", text, re.MULTILINE)
    assert found is not None
    limit = loaded(ROOT / "roles/gateway/defaults/main.yml")["gateway_max_request_bytes"]
    assert limit == int(found[1]) * 2**20
