# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A SoftHSM2 token of each test's own, and an authority in it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from softhsm import SOFTHSM, TOKEN, Run, ca_arguments


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(
        f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n"
    )
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    for name in ("pin", "so-pin"):
        (tmp_path / name).write_text(f"unit-{name}-1")
        (tmp_path / name).chmod(0o400)
    return tmp_path


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def module(name: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
        imported = importlib.import_module(
            f"ansible_collections.onprem.deepseek.plugins.modules.pkcs11_{name}"
        )
        everything = {
            "module_path": SOFTHSM,
            "pin_file": str(home / "pin"),
            "_ansible_check_mode": check,
            **arguments,
        }
        with patch_module_args(everything), pytest.raises(SystemExit):
            imported.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert "unit-pin-1" not in json.dumps(
            {key: value for key, value in result.items() if key != "invocation"}
        )
        return result

    return module


@pytest.fixture
def token(run: Run, home: Path) -> Run:
    run("token", label=TOKEN, so_pin_file=str(home / "so-pin"))
    return run


@pytest.fixture
def authority(token: Run, home: Path) -> dict[str, Any]:
    """A CA in the token, and the arguments that sign with it."""
    token("key", token=TOKEN, label="ca")
    result = token("certificate", **ca_arguments(home))
    assert result["changed"], result
    return {"token": TOKEN, "ca_certificate": str(home / "ca.pem")}
