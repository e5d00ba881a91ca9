# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A test host's Python runs what it kept of a source, and never what it kept of another."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parents[2] / "lab"
PROGRAM = """
import os, sys
sys.path[:0] = sys.argv[1:3]
import lab_bytecode
lab_bytecode.DIRECTORY, os.geteuid = sys.argv[3], lambda: int(sys.argv[4])
import said
print(said.word)
"""


@pytest.fixture
def say(tmp_path: Path):
    """Have a new Python import a module of this source from a zip, and give what it printed."""

    def run(source: str, user: int = 0) -> str:
        path = tmp_path / "modules.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("said.py", source)
        done = subprocess.run(
            [sys.executable, "-B", "-c", PROGRAM, LAB, path, tmp_path / "kept", str(user)],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    return run


def kept(directory: Path) -> list[Path]:
    return sorted((directory / "kept").glob("said.py.*"))


def test_it_is_compiled_once(say, tmp_path: Path):
    assert say("word = 'first'") == "first"
    [file] = kept(tmp_path)
    before = file.stat().st_mtime_ns
    assert say("word = 'first'") == "first"
    assert file.stat().st_mtime_ns == before

    # What is run is the file: that of another source in its place is believed.
    assert say("word = 'other'") == "other"
    [other] = set(kept(tmp_path)) - {file}
    file.write_bytes(other.read_bytes())
    assert say("word = 'first'") == "other"


def test_what_another_python_kept_is_compiled_again(say, tmp_path: Path):
    say("word = 'first'")
    [file] = kept(tmp_path)
    file.write_bytes(b"\0" * 16 + file.read_bytes()[16:])
    assert say("word = 'first'") == "first"


def test_only_root_keeps_anything(say, tmp_path: Path):
    assert say("word = 'first'", user=1000) == "first"
    assert kept(tmp_path) == []
