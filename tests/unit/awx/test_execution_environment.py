# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment: its build context, by ansible-builder. No image is built here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
DEFINITION = yaml.safe_load((ROOT / "execution-environment.yml").read_text())


def run(home: Path, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(BIN / program), *arguments], cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the definition and the collection, as the how-to page has them."""
    made = tmp_path_factory.mktemp("ee")
    shutil.copy(ROOT / "execution-environment.yml", made)
    run(made, "ansible-galaxy", "collection", "build", "--output-path", str(made), str(ROOT))
    return made


def test_the_build_context_has_the_collection_and_the_versions(home: Path) -> None:
    run(home, "ansible-builder", "create")
    containerfile = (home / "context/Containerfile").read_text()
    installed = DEFINITION["dependencies"]
    for name in ("ansible_core", "ansible_runner"):
        assert installed[name]["package_pip"] in containerfile
    archive = installed["galaxy"]["collections"][0]["name"]
    with tarfile.open(home / "context/_build" / archive) as packed:
        names = packed.getnames()
    assert {"playbooks/site.yml", "playbooks/meta/argument_specs.yml", "awx/access.yml"} <= {*names}


def test_the_collection_needs_what_it_declares_and_ssh(home: Path) -> None:
    there = home / "collections/ansible_collections/onprem/deepseek"
    there.mkdir(parents=True)
    archive = next(home.glob("*.tar.gz"))
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(there)], check=True)
    found = yaml.safe_load(run(home, "ansible-builder", "introspect", str(home / "collections")))
    lines = (ROOT / "meta/ee-requirements.txt").read_text().splitlines()
    declared = [line for line in lines if line and not line.startswith("#")]
    assert [line.partition("#")[0].strip() for line in found["python"]] == declared
    assert {line.split()[0] for line in found["system"]} == {"openssh-client", "openssh-clients"}


def test_versions_are_those_that_everything_is_tested_with() -> None:
    lock = (ROOT / "requirements-dev.txt").read_text()
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", lock, re.MULTILINE))
    for name in ("ansible_core", "ansible_runner"):
        package, version = DEFINITION["dependencies"][name]["package_pip"].split("==")
        assert pinned[package] == version
    collection = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    archive = f"onprem-deepseek-{collection['version']}.tar.gz"
    assert DEFINITION["additional_build_files"][0]["src"] == archive
