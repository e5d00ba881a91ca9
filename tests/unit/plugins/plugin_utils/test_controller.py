# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a controller that cannot run the playbooks, or cannot read the inventory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from ansible.release import __version__ as ansible_version

from ansible_collections.onprem.deepseek.plugins.plugin_utils import controller


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    (tmp_path / controller.RUNTIME).write_text('requires_ansible: ">=2.19.0"\n')
    (tmp_path / controller.PYTHON).write_text("# why\n\npackaging>=20\n")
    return tmp_path


def test_the_environment_of_the_tests_is_enough() -> None:
    assert list(controller.software(ansible_version)) == []


@pytest.mark.parametrize("version", ["2.18.19", "2.9.27"])
def test_an_older_ansible_is_refused_with_the_command_that_installs_another(
    meta: Path, version: str
) -> None:
    (problem,) = controller.software(version, meta)
    assert problem.startswith(
        f"ansible-core {version} runs this, and the collection needs >=2.19.0"
    )
    assert f"{sys.executable} -m pip install 'ansible-core>=2.19.0'" in problem


@pytest.mark.parametrize("version", ["2.19.0", "2.19.14", "2.20.0rc1", "2.21.0.dev0"])
def test_a_later_ansible_is_taken(meta: Path, version: str) -> None:
    assert list(controller.software(version, meta)) == []


def test_every_package_that_is_missing_or_too_old_is_named(meta: Path) -> None:
    (meta / controller.PYTHON).write_text("packaging>=10000\nno-such-package>=1\n")
    old, missing = controller.software("2.19.0", meta)
    assert "has packaging " in old
    assert "needs packaging>=10000" in old
    assert "has no no-such-package" in missing
    assert f"{sys.executable} -m pip install 'no-such-package>=1'" in missing


def test_an_inventory_that_can_be_read_is_taken(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("")
    (tmp_path / "group_vars").mkdir()
    assert list(controller.inventory([str(tmp_path), str(tmp_path / "hosts.yml")], ["a"])) == []
    assert list(controller.inventory(["a,b"], ["a", "b"])) == []


def test_an_inventory_that_is_not_there_is_named_beside_one_that_is(tmp_path: Path) -> None:
    missing = str(tmp_path / "stage")
    (problem,) = controller.inventory([str(tmp_path), missing], ["a"])
    assert problem.startswith(f"the inventory {missing} does not exist")


def test_an_inventory_without_hosts_is_told_with_where_it_was_looked_for(tmp_path: Path) -> None:
    (problem,) = controller.inventory([str(tmp_path)], [])
    assert str(tmp_path) in problem
    assert "-i" in problem


@pytest.mark.parametrize("part", ["hosts.yml", "group_vars/all.yml", "host_vars"])
@pytest.mark.parametrize("as_file", [True, False], ids=["file", "directory"])
def test_each_part_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, as_file: bool
) -> None:
    for name in ("group_vars", "host_vars"):
        (tmp_path / name).mkdir()
    for name in ("hosts.yml", "group_vars/all.yml", "group_vars/gateway.yml"):
        (tmp_path / name).write_text("")
    # root may read everything
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path / part)
    source = tmp_path / "hosts.yml" if as_file else tmp_path
    (problem,) = controller.inventory([str(source)], ["a"])
    assert problem.startswith(f"the inventory's {tmp_path / part} may not be read by ")
