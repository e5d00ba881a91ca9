# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The version is the same wherever it stands, and what keeps a release from being made."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
ADDED = re.compile(r"""^\s*version_added:\s*["']?([^"'\s]+)""", re.MULTILINE)


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return load_script(ROOT / "tests/release.py", "release")


@pytest.fixture
def checkout(release: ModuleType, tmp_path: Path) -> Path:
    """A repository with the places of the version and one fragment."""
    for place in release.PLACES:
        target = tmp_path / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / place, target)
    fragments = tmp_path / "changelogs/fragments"
    fragments.mkdir(parents=True)
    (fragments / "1-x.yml").write_text("minor_changes: [x - y.]\n")
    (tmp_path / "changelogs/changelog.yaml").write_text("releases: {0.1.0: {}}\n")
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "x"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_the_places_of_the_version_agree(release: ModuleType) -> None:
    found = release.versions()
    version = found["galaxy.yml"]
    assert found == {place: release.spelling(place, version) for place in release.PLACES}


def test_nothing_is_newer_than_the_version(release: ModuleType) -> None:
    base = release.versions()["galaxy.yml"].partition("-")[0]
    added = {
        (str(path.relative_to(ROOT)), version)
        for directory in ("plugins", "roles")
        for path in (ROOT / directory).rglob("*")
        if path.suffix in (".py", ".yml", ".yaml") and path.is_file()
        for version in ADDED.findall(path.read_text(encoding="utf-8"))
    }
    assert added
    assert {one for one in added if release.order(one[1]) > release.order(base)} == set()
    if not [version for version in release.released() if "-" not in version]:
        # Until the first release there is nothing that can have been added later.
        assert {version for _path, version in added} == {base}


def test_a_version_is_written_everywhere(release: ModuleType, checkout: Path) -> None:
    release.write_versions("2.3.4-rc1", checkout)
    assert list(release.versions(checkout).values()) == ["2.3.4-rc1", "2.3.4rc1", "2.3.4rc1"]


def test_versions_are_ordered(release: ModuleType) -> None:
    ordered = ["0.1.0-alpha1", "0.1.0-rc1", "0.1.0-rc2", "0.1.0", "0.1.1", "0.10.0", "1.0.0"]
    keys = [release.order(version) for version in ordered]
    assert keys == sorted(set(keys))


def test_a_clean_checkout_can_be_released(release: ModuleType, checkout: Path) -> None:
    assert list(release.problems("0.2.0-rc1", checkout)) == []


def test_a_release_after_its_candidate_needs_no_fragment(
    release: ModuleType, checkout: Path
) -> None:
    (checkout / "changelogs/changelog.yaml").write_text("releases: {0.2.0-rc1: {}}\n")
    (checkout / "changelogs/fragments/1-x.yml").unlink()
    assert not [said for said in release.problems("0.2.0", checkout) if "fragment" in said]
    assert [said for said in release.problems("0.3.0", checkout) if "fragment" in said]


def test_everything_that_is_in_the_way_is_said_at_once(release: ModuleType, checkout: Path) -> None:
    (checkout / "changelogs/fragments/1-x.yml").unlink()
    subprocess.run(["git", "tag", "v0.1.0-rc1"], cwd=checkout, check=True)
    found = " ".join(release.problems("0.1.0-rc1", checkout))
    assert re.search("0.1.0 is released.*has changes.*tag v0.1.0-rc1 exists", found)


@pytest.mark.parametrize("version", ["1.2", "v1.2.0", "1.2.0rc1", "1.2.0-rc", ""])
def test_what_is_no_version(release: ModuleType, version: str) -> None:
    assert release.main([version]) == 1
