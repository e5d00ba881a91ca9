# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""apt and pip take what is in a bundle, and its bill of materials counts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from small_bundles import bytes_of, deb, wheel

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import sha256_file
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import ArtifactError
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.components import (
    Component,
    debian_components,
    wheel_components,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.debian import (
    INDEX_KEY,
    AptDirectory,
    Suite,
    collect,
    epoch_of,
    sign_indexes,
    write_index,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.sbom import bill_of_materials
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.vulnerabilities import (
    find,
    read_feed,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import run_command

MAIN = Suite("bookworm", ("wanted",))
BACKPORTS = Suite("bookworm-backports", ("provider",), automatic=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a mirror has: more than is wanted, and a newer one in backports."""
    root = tmp_path_factory.mktemp("archive")
    for suite in (MAIN, BACKPORTS):
        (root / suite.name).mkdir()
    main, backports = root / MAIN.name, root / BACKPORTS.name
    deb(main, "wanted", "1:1.0-1", "needed (>= 1)")
    deb(main, "needed", "2.0")
    deb(main, "unwanted")
    deb(backports, "needed", "3.0")
    deb(backports, "provider", "1.0", "needed")
    for suite in (MAIN, BACKPORTS):
        write_index(run_command, str(root / suite.name), suite, 0, "amd64")
    return root


def lines(root: Path) -> str:
    # of apt's methods the one that copies, as that of a mirror does
    return "".join(
        f"deb [trusted=yes] copy:{root}/{suite.name} ./\n" for suite in (MAIN, BACKPORTS)
    )


def collected(archive: Path, root: Path) -> list[str]:
    apt = AptDirectory(run_command, str(root / "apt"), lines(archive), "amd64")
    return collect(run_command, apt, [MAIN, BACKPORTS], str(root / "tree"), "amd64")


@pytest.fixture(scope="module")
def tree(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("collected")
    assert collected(archive, root) == ["needed", "provider", "wanted"]
    return root / "tree"


def test_what_is_needed_is_collected_and_nothing_else(tree: Path) -> None:
    found = {name for name in bytes_of(tree) if name.endswith(".deb")}
    assert found == {
        "bookworm/wanted_1.0-1_all.deb",
        "bookworm/needed_2.0_all.deb",
        "bookworm-backports/needed_3.0_all.deb",
        "bookworm-backports/provider_1.0_all.deb",
    }
    assert "NotAutomatic: yes" in (tree / "bookworm-backports/Release").read_text()


def test_collecting_again_gives_the_same_bytes(tree: Path, archive: Path, tmp_path: Path) -> None:
    collected(archive, tmp_path)
    collected(archive, tmp_path)
    assert bytes_of(tmp_path / "tree") == bytes_of(tree)


def test_a_package_that_no_source_has_is_named(archive: Path, tmp_path: Path) -> None:
    apt = AptDirectory(run_command, str(tmp_path / "apt"), lines(archive), "amd64")
    apt.update()
    with pytest.raises(ArtifactError, match="Unable to locate package missing"):
        apt.closure(Suite("bookworm", ("missing",)))


def test_a_source_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    source = f"deb [trusted=yes] copy:{tmp_path}/nowhere ./\n"
    apt = AptDirectory(run_command, str(tmp_path / "apt"), source, "amd64")
    with pytest.raises(ArtifactError, match="apt-get update"):
        apt.update()


class Host:
    """apt of a host with nothing installed that knows one source and one key."""

    def __init__(self, root: Path, served: Path, key: Path) -> None:
        self.root = root
        source = "".join(
            f"deb [signed-by={key}] file:{served}/{suite.name} ./\n" for suite in (MAIN, BACKPORTS)
        )
        self._apt = AptDirectory(run_command, str(root), source, "amd64")

    def installs(self, *arguments: str) -> list[str]:
        self._apt.update()
        said = self._apt.apt("install", "--simulate", "--yes", *arguments).stdout
        return sorted(line.split()[1] for line in said.splitlines() if line.startswith("Inst "))


@pytest.fixture(scope="module")
def site(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage = tmp_path_factory.mktemp("site")
    subprocess.run(["cp", "--archive", str(tree), str(stage / "apt-bookworm")], check=True)
    sign_indexes(run_command, str(stage), ["apt-bookworm"], str(stage / "keyring"), "Site")
    return stage


def test_apt_takes_what_the_site_signed(site: Path, tmp_path: Path) -> None:
    host = Host(tmp_path, site / "apt-bookworm", site / INDEX_KEY)
    assert host.installs("wanted") == ["needed", "wanted"]
    provider = host.installs("provider", "--target-release", "bookworm-backports")
    assert provider == ["needed", "provider"]


def test_the_site_keeps_its_key(site: Path, tree: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "--archive", str(tree), str(tmp_path / "apt-bookworm")], check=True)
    sign_indexes(run_command, str(tmp_path), ["apt-bookworm"], str(site / "keyring"), "Site")
    assert (tmp_path / INDEX_KEY).read_bytes() == (site / INDEX_KEY).read_bytes()


def test_apt_refuses_a_changed_list_and_another_key(site: Path, tree: Path, tmp_path: Path) -> None:
    served = tmp_path / "apt-bookworm"
    subprocess.run(["cp", "--archive", str(site / "apt-bookworm"), str(served)], check=True)
    with (served / "bookworm/Packages").open("a") as stream:
        stream.write("\n")
    with pytest.raises(ArtifactError, match="apt-get update"):
        Host(tmp_path / "one", served, site / INDEX_KEY).installs("wanted")
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["cp", "--archive", str(tree), str(other / "apt-bookworm")], check=True)
    sign_indexes(run_command, str(other), ["apt-bookworm"], str(other / "keyring"), "Other")
    with pytest.raises(ArtifactError, match="apt-get update"):
        Host(tmp_path / "two", site / "apt-bookworm", other / INDEX_KEY).installs("wanted")


def test_the_epoch_is_that_of_the_newest_list() -> None:
    old, new = b"Date: Sat, 10 Jun 2023 08:53:33 UTC\n", b"Date: Sun, 11 Jun 2023 08:53:33 UTC\n"
    assert epoch_of({"a": b"Suite: x\n" + new, "b": old, "c": b"none"}) == 1686473613
    assert epoch_of({}) == 0


def test_pip_installs_from_the_wheels_alone(tmp_path: Path) -> None:
    path = wheel(tmp_path / "3.11", "tiny")
    lock = tmp_path / "requirements.txt"
    lock.write_text(f"tiny==1.0 --hash=sha256:{sha256_file(str(path))}\n")
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--no-index", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--quiet", "--no-compile"]
    command += ["--find-links", str(path.parent), "--requirement", str(lock), "--target"]
    good = subprocess.run([*command, str(tmp_path / "a")], check=False, capture_output=True)
    assert good.returncode == 0, good.stderr
    assert (tmp_path / "a/tiny.py").exists()
    wheel(tmp_path / "3.11", "tiny", metadata="Summary: other bytes\n")
    bad = subprocess.run([*command, str(tmp_path / "b")], check=False, capture_output=True)
    assert b"DO NOT MATCH THE HASHES" in bad.stderr


@pytest.fixture(scope="module")
def components(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Component]:
    wheels = tmp_path_factory.mktemp("wheels")
    wheel(wheels / "3.11", "Some_Thing", "1.4", "License-Expression: MIT OR Apache-2.0\n")
    wheel(wheels / "3.11", "old", "1.0", "Classifier: License :: OSI Approved :: BSD License\n")
    wheel(wheels / "3.13", "silent", "1.0")
    found = debian_components("apt-bookworm", str(tree), "bookworm", "12")
    return found + wheel_components("wheels-none", str(wheels))


def test_the_bill_of_materials_has_every_package_with_hash_and_license(
    components: list[Component],
) -> None:
    data = bill_of_materials(components, [], "0.1.0", 1000)
    assert data == bill_of_materials(components[::-1], [], "0.1.0", 1000)
    document = json.loads(data)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["timestamp"] == "1970-01-01T00:16:40Z"
    by_purl = {one["purl"]: one for one in document["components"]}
    wanted = by_purl["pkg:deb/debian/wanted@1%3A1.0-1?arch=all&distro=bookworm"]
    assert [one["license"]["name"] for one in wanted["licenses"]] == ["BSD-3-clause", "MIT"]
    assert len(wanted["hashes"][0]["content"]) == 64
    some = by_purl["pkg:pypi/some-thing@1.4"]
    assert some["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert by_purl["pkg:pypi/old@1.0"]["licenses"] == [{"license": {"name": "BSD License"}}]
    assert "licenses" not in by_purl["pkg:pypi/silent@1.0"]
    references = [one["bom-ref"] for one in document["components"]]
    assert len(set(references)) == len(references) == 7


def entry(identifier: str, ecosystem: str, name: str, **affected: Any) -> dict[str, Any]:
    package = {"ecosystem": ecosystem, "name": name}
    return {"id": identifier, "summary": "bad", "affected": [{"package": package, **affected}]}


def ecosystem_range(*events: dict[str, str]) -> dict[str, Any]:
    return {"ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}


@pytest.mark.parametrize(
    ("one", "affects"),
    [
        (entry("A", "PyPI", "some.thing", versions=["1.4"]), True),
        (entry("A", "PyPI", "some-thing", versions=["1.3"]), False),
        (entry("A", "PyPI", "other", versions=["1.4"]), False),
        (entry("A", "PyPI", "some-thing", **ecosystem_range({"introduced": "0"})), True),
        (
            entry(
                "A",
                "PyPI",
                "some-thing",
                **ecosystem_range({"introduced": "1.0"}, {"fixed": "1.4"}),
            ),
            False,
        ),
        (
            entry(
                "A",
                "PyPI",
                "some-thing",
                **ecosystem_range({"introduced": "1.3"}, {"fixed": "1.10"}),
            ),
            True,
        ),
        (
            entry(
                "A",
                "PyPI",
                "some-thing",
                **ecosystem_range({"introduced": "0"}, {"last_affected": "1.3"}),
            ),
            False,
        ),
        # of a Debian package, its source is named
        (
            entry(
                "A",
                "Debian:12",
                "source-of-it",
                **ecosystem_range({"introduced": "0"}, {"fixed": "0.9+deb12u1"}),
            ),
            True,
        ),
        (
            entry(
                "A",
                "Debian:12",
                "source-of-it",
                **ecosystem_range({"introduced": "0"}, {"fixed": "0.9~rc1"}),
            ),
            False,
        ),
        (entry("A", "Debian:13", "source-of-it", **ecosystem_range({"introduced": "0"})), False),
        (
            {
                **entry("A", "PyPI", "some-thing", versions=["1.4"]),
                "withdrawn": "2026-01-01T00:00:00Z",
            },
            False,
        ),
    ],
)
def test_known_vulnerabilities_are_of_the_versions_that_they_are_of(
    one: dict[str, Any], affects: bool, components: list[Component]
) -> None:
    found = find([one], components)
    assert bool(found) == affects
    if found:
        document = json.loads(bill_of_materials(components, found, "0.1.0", 0))
        references = {each["bom-ref"] for each in document["components"]}
        assert {each["ref"] for each in document["vulnerabilities"][0]["affects"]} <= references


def test_a_feed_is_a_list_an_entry_or_a_zip_of_entries(tmp_path: Path) -> None:
    one, two = ({"id": name, "affected": []} for name in ("A", "B"))
    (tmp_path / "one.json").write_text(json.dumps(one))
    (tmp_path / "list.json").write_text(json.dumps([one, two]))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("A.json", json.dumps(one))
        archive.writestr("B.json", json.dumps(two))
    found = {
        name: [entry["id"] for entry in read_feed(str(tmp_path / name))]
        for name in sorted(os.listdir(tmp_path))
    }
    assert found == {"all.zip": ["A", "B"], "list.json": ["A", "B"], "one.json": ["A"]}
    for text in ("[1]", "{}", "{", "[" * 100000):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"bad\.json is no"):
            list(read_feed(str(tmp_path / "bad.json")))
