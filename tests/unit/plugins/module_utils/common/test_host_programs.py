# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs on a host: what they import is installed, and what none of them needs any more goes."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.onprem.deepseek.plugins.action.host_programs import (
    MODULE_UTILS,
    offer_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common import host_programs
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_programs import (
    HostProgramsError,
    Offer,
    Place,
    install,
    pack,
    unpack,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.import_closure import (
    ClosureError,
    import_closure,
)

ROOT = Path(__file__).resolve().parents[5]
CATALOG: dict[str, Any] = yaml.safe_load(
    (ROOT / "roles/host_tools/vars/main.yml").read_text(encoding="utf-8")
)["__host_tools_catalog"]
MODULES = {name: program["module"] for name, program in CATALOG.items()}
every_program = pytest.mark.parametrize("program", sorted(MODULES))


@pytest.fixture(scope="module")
def offer() -> Offer:
    return offer_of(MODULES)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "sbin").mkdir()
    return Place(str(tmp_path / "lib"), str(tmp_path / "sbin"))


def files(place: Place) -> set[str]:
    root = Path(place.package)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def without_packages(paths: set[str]) -> set[str]:
    return {path for path in paths if not path.endswith("__init__.py")}


# --- the programs that there are -----------------------------------------------------------------


@every_program
def test_what_is_installed_is_what_is_imported(program: str, offer: Offer, place: Place) -> None:
    """Python's own modulefinder, which reads bytecode, reaches the same from the script."""
    install(place, unpack(pack(offer)), [program], True)
    finder = ModuleFinder(path=[place.directory])
    finder.run_script(place.script(program))
    reached = {
        os.path.relpath(module.__file__, place.package)
        for name, module in finder.modules.items()
        if name.startswith("deepseek_host") and module.__file__
    }
    assert files(place) == reached
    assert [name for name in finder.badmodules if name.startswith("deepseek_host")] == []


@every_program
def test_each_program_starts_from_what_is_installed_alone(
    program: str, offer: Offer, place: Place, tmp_path: Path
) -> None:
    install(place, offer, [program], True)
    # a module of the working directory, or of the environment, must not be taken instead
    (tmp_path / "argparse.py").write_text("raise SystemExit('taken from elsewhere')\n")
    started = subprocess.run(
        [sys.executable, "-IB", place.script(program), "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert (started.returncode, started.stderr) == (0, "")
    assert started.stdout.startswith(f"usage: deepseek-{program}")
    assert without_packages(files(place)) == set(offer.needs[program])


@every_program
def test_every_program_is_run_by_a_unit_or_documented(program: str) -> None:
    script = f"/usr/local/sbin/deepseek-{program}"
    texts = [path.read_text() for path in (ROOT / "roles").glob("*/templates/*.service.j2")]
    texts.append((ROOT / "roles/host_tools/README.md").read_text())
    assert any(script in text for text in texts)


def test_roles_ask_for_programs_that_there_are() -> None:
    asked = set()
    for path in (ROOT / "roles").glob("*/tasks/*.yml"):
        for task in yaml.safe_load(path.read_text()) or []:
            programs = task.get("vars", {}).get("host_tools_programs", [])
            # an expression names them, too
            named = re.findall(r"'([\w-]+)'", programs) if isinstance(programs, str) else programs
            asked.update(named)
    assert asked == set(CATALOG)


def test_the_documented_programs_are_those_of_the_catalog() -> None:
    specs = yaml.safe_load((ROOT / "roles/host_tools/meta/argument_specs.yml").read_text())
    option = specs["argument_specs"]["main"]["options"]["host_tools_programs"]
    assert option["choices"] == list(CATALOG)


# --- the host ------------------------------------------------------------------------------------

SMALL = Offer(
    {"one": "a.one", "two": "b.two"},
    {"one": ["a/one.py", "c/shared.py"], "two": ["b/two.py", "c/shared.py"]},
    {"a/one.py": "def main(): ...\n", "b/two.py": "def main(): ...\n", "c/shared.py": "X = 1\n"},
)


def test_a_second_run_changes_nothing_and_check_mode_never_does(place: Place) -> None:
    assert install(place, SMALL, ["one"], False).changed
    assert not Path(place.directory).exists()
    first = install(place, SMALL, ["one"], True)
    assert (first.updated, first.removed) == (["one"], [])
    again = install(place, SMALL, ["one"], True)
    assert not again.changed
    assert (again.updated, again.versions) == ([], first.versions)


def test_programs_of_other_roles_stay_and_are_kept_current(place: Place) -> None:
    one = install(place, SMALL, ["one"], True)
    both = install(place, SMALL, ["two"], True)
    assert both.programs == ["one", "two"]
    assert both.updated == ["two"]
    assert both.versions["one"] == one.versions["one"]
    newer = replace(SMALL, files={**SMALL.files, "a/one.py": "def main(): print()\n"})
    then = install(place, newer, ["two"], True)
    assert then.updated == ["one"]
    assert then.versions["one"] != one.versions["one"]
    assert then.versions["two"] == both.versions["two"]


def test_what_no_program_needs_any_more_is_removed(place: Place) -> None:
    install(place, SMALL, ["one", "two"], True)
    lib, sbin = Path(place.directory), Path(place.scripts)
    (lib / "ansible_collections" / "onprem").mkdir(parents=True)
    (lib / ".old.abc").mkdir()
    (lib / "deepseek_host" / "c" / "gone.py").write_text("")
    (sbin / "deepseek-others").write_text("#!/bin/sh\n")
    left = Offer({"one": "a.one"}, {"one": ["a/one.py"]}, {"a/one.py": SMALL.files["a/one.py"]})
    outcome = install(place, left, ["one"], True)
    assert files(place) == {"__init__.py", "a/__init__.py", "a/one.py"}
    assert sorted(path.name for path in sbin.iterdir()) == ["deepseek-one", "deepseek-others"]
    assert [path.name for path in lib.iterdir()] == ["deepseek_host"]
    assert str(sbin / "deepseek-two") in outcome.removed
    assert str(lib / "deepseek_host" / "c" / "gone.py") in outcome.removed
    assert not install(place, left, ["one"], True).changed


def damage_mode(place: Place) -> None:
    Path(place.package, "a/one.py").chmod(0o666)


def damage_text(place: Place) -> None:
    Path(place.package, "a/one.py").write_text("")


def damage_script(place: Place) -> None:
    Path(place.script("one")).chmod(0o777)


def damage_link(place: Place) -> None:
    os.rename(place.package, f"{place.directory}/other")
    os.symlink("other", place.package)


def damage_nothing_there(place: Place) -> None:
    """As a run that is killed between the two renames leaves it."""
    os.rename(place.package, f"{place.directory}/.old.x")


@pytest.mark.parametrize(
    "damage", [damage_mode, damage_text, damage_script, damage_link, damage_nothing_there]
)
def test_damage_is_seen_and_repaired(place: Place, damage: Any) -> None:
    install(place, SMALL, ["one"], True)
    damage(place)
    assert install(place, SMALL, ["one"], False).changed
    assert install(place, SMALL, ["one"], True).changed
    assert not install(place, SMALL, ["one"], True).changed
    assert not os.path.islink(place.package)
    assert os.stat(f"{place.package}/a/one.py").st_mode & 0o777 == 0o644
    assert os.stat(place.script("one")).st_mode & 0o777 == 0o755


def test_an_unknown_program_is_refused_before_anything_changes(place: Place) -> None:
    with pytest.raises(HostProgramsError, match=r"no program three; there are one, two"):
        install(place, SMALL, ["one", "three"], True)
    assert not Path(place.directory).exists()


def packed(**changes: Any) -> str:
    document = {
        "modules": {"one": "a.one"},
        "needs": {"one": ["a/one.py"]},
        "files": {"a/one.py": ""},
    }
    return base64.b64encode(
        gzip.compress(json.dumps(document | changes).encode(), mtime=0)
    ).decode()


@pytest.mark.parametrize(
    ("archive", "problem"),
    [
        ("no base64!", "cannot be read"),
        (base64.b64encode(b"no gzip").decode(), "cannot be read"),
        (packed()[:40], "cannot be read"),
        (base64.b64encode(gzip.compress(b"[]", mtime=0)).decode(), "cannot be read"),
        (packed(files=[]), "names that no program has"),
        (packed(files={"a/one.py": "", "../evil.py": ""}), "names that no program has"),
        (packed(modules={"../one": "a.one"}, needs={"../one": ["a/one.py"]}), "names that no"),
        (packed(modules={"one": "a.one; evil"}), "names that no program has"),
        (packed(needs={"one": ["a/two.py"]}), "names that no program has"),
        (packed(needs={}), "names that no program has"),
    ],
)
def test_an_archive_that_is_not_ours_is_refused(archive: str, problem: str) -> None:
    assert unpack(packed()).needs == {"one": ["a/one.py"]}
    with pytest.raises(HostProgramsError, match=problem):
        unpack(archive)


def test_an_archive_that_grows_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_programs, "MAX_BYTES", 1000)
    with pytest.raises(HostProgramsError, match="more than 1000 bytes"):
        unpack(packed(files={"a/one.py": "#" * 1000}))


# --- what a program imports ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("import os\nfrom json import loads\n", []),
        ("from .two import x\n", ["a/two.py"]),
        ("from . import two\n", ["a/two.py"]),
        ("from ..b import three, four\n", ["b/four.py", "b/three.py"]),
        ("from ..b.three import anything\n", ["a/two.py", "b/three.py"]),
        ("def f():\n    from .two import x\n", ["a/two.py"]),
    ],
)
def test_closure(tmp_path: Path, text: str, needed: list[str]) -> None:
    for path in ("a/one.py", "a/two.py", "b/three.py", "b/four.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("")
    (tmp_path / "a/one.py").write_text(text)
    if "a/two.py" in needed and "b/three.py" in needed:
        (tmp_path / "b/three.py").write_text("from ..a.two import x\nfrom ..a.one import y\n")
    assert import_closure(str(tmp_path), "a.one") == sorted(["a/one.py", *needed])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("from .gone import x\n", "line 1: there is no a/gone/x.py, nor a/gone.py"),
        ("from ... import x\n", "leads out of the packages"),
        ("from ....x import y\n", "leads out of the packages"),
        ("import ansible.errors\n", "imports ansible.errors, which is not there on a host"),
        ("from ansible_collections.onprem import x\n", "not there on a host"),
        ("def\n", "cannot be read as a program"),
    ],
)
def test_closure_that_no_host_can_have(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.py").write_text(text)
    with pytest.raises(ClosureError, match=problem):
        import_closure(str(tmp_path), "a.one")


def test_files_of_the_collection_are_found_where_the_action_is() -> None:
    assert (MODULE_UTILS / "common" / "import_closure.py").is_file()


def test_a_role_may_ask_for_every_program() -> None:
    specs = yaml.safe_load((ROOT / "roles/host_tools/meta/argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]
    assert options["host_tools_programs"]["choices"] == list(CATALOG)
