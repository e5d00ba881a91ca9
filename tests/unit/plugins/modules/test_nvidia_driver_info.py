# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nvidia_driver_info, from its arguments to its result, on a host that is a directory."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

MODULE = "ansible_collections.onprem.deepseek.plugins.modules.nvidia_driver_info"
PROGRAMS = ("dpkg-query", "dpkg", "dkms", "modinfo", "apt-get", "apt-cache")
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the module on a Debian 12 without packages, whose programs print nothing."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).write_text("#!/bin/sh\nexit 0\n")
        (programs / name).chmod(0o755)
    release = tmp_path / "root" / "etc" / "os-release"
    release.parent.mkdir(parents=True)
    release.write_text('ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n')
    imported = importlib.import_module(MODULE)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(imported, "ROOT", tmp_path / "root")
    monkeypatch.setattr(imported.tempfile, "tempdir", str(tmp_path))

    def module(check: bool = False, **arguments: Any) -> dict[str, Any]:
        given = {"sysfs": str(tmp_path / "sys"), "_ansible_check_mode": check, **arguments}
        with patch_module_args(given), pytest.raises(SystemExit):
            imported.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        result.pop("invocation", None)
        return result

    return module


@pytest.mark.parametrize("check", [False, True])
def test_it_gives_what_it_documents_and_leaves_nothing_behind(
    run: Run, tmp_path: Path, check: bool
) -> None:
    result = run(check=check, repository="https://mirror/nvidia", kernel_release="6.1.0-1-amd64")
    assert result.pop("changed") is False
    documented = yaml.safe_load(importlib.import_module(MODULE).RETURN)
    assert result.keys() == documented.keys()
    assert result["kernel_release"] == "6.1.0-1-amd64"
    assert result["sources"].startswith("Types: deb\nURIs: https://mirror/nvidia\n")
    assert {problem["where"] for problem in result["problems"]} == {
        "nvidia_driver_sysfs",
        "nvidia_driver_version",
        "nvidia_driver_kernel_release",
    }
    assert list(tmp_path.glob("nvidia_driver_info-*")) == []


def test_numbers_must_be_numbers(run: Run) -> None:
    result = run(free_mib={"/": "much"})
    assert result["failed"] is True
    assert result["msg"].startswith("free_mib must have numbers")
