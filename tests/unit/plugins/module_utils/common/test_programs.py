# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.common.programs import program_of


def test_modules_of_a_package_run_as_one_program_without_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "program_parts"
    package.mkdir()
    (package / "words.py").write_text('GREETING = "Good \\"day\\""\n')
    (package / "talk.py").write_text(
        "from .words import GREETING\n\n\ndef main(arguments):\n"
        "    print(__name__, GREETING, *arguments)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    parts = [importlib.import_module(f"program_parts.{name}") for name in ("words", "talk")]
    done = subprocess.run(
        [sys.executable, "-I", "-", "to", "you"],
        input=program_of(parts),
        capture_output=True,
        check=True,
        cwd="/",
    )
    assert done.stdout.decode() == 'program.talk Good "day" to you\n'
