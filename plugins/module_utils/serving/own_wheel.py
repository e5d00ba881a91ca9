# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare a wheel that was built elsewhere with the source that it was built from.

A wheel is taken only if each file that Python would import or run is one of the source, byte for byte. So it
can hold no code of others: neither a changed module, nor a .pth file, which each start of Python would run.
"""

from __future__ import annotations

import configparser
import importlib
import io
import re
import zipfile
from pathlib import Path
from typing import Any

# Bounds of what is read: many times what a wheel of ours has.
MAX_BYTES = 2**25
MAX_FILES = 2000
_METADATA = re.compile(
    r"^[A-Za-z0-9_.]+-[A-Za-z0-9_.+!]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|top_level\.txt|licenses/[A-Za-z0-9_./-]+)$"
)


def source_files(source: Path) -> dict[str, bytes]:
    """The files of the packages below src/, by the names that they have in a wheel."""
    root = source / "src"
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not re.search(r"(^|/)__pycache__/|\.egg-info/|\.pyc$", name):
            found[name] = path.read_bytes()
    return found


def scripts(source: Path) -> dict[str, str]:
    """The commands that the package installs, as pyproject.toml names them."""
    # in the standard library from Python 3.11 on, which every controller has
    tomllib: Any = importlib.import_module("tomllib")
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(project.get("scripts", {}))


class _EntryPoints(configparser.ConfigParser):
    def optionxform(self, optionstr: str) -> str:
        """Leave names as they are: commands differ by case."""
        return optionstr


def _entry_points(text: str) -> dict[str, dict[str, str]]:
    parser = _EntryPoints(delimiters=("=",), interpolation=None)
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


def _contents(wheel: zipfile.ZipFile, expected: dict[str, bytes]) -> list[str]:
    names = wheel.namelist()
    problems = [
        f"{name} is in it twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    for name in names:
        if name in expected:
            if wheel.read(name) != expected[name]:
                problems.append(f"{name} differs from the source")
        elif not _METADATA.match(name) or ".." in name:
            problems.append(f"{name} is not in the source")
    missing = [name for name in expected if name.endswith(".py") and name not in names]
    return problems + [f"{name} of the source is missing" for name in missing]


def _commands(wheel: zipfile.ZipFile, source: Path) -> list[str]:
    found = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    points: dict[str, dict[str, str]] = {}
    for name in found:
        try:
            points |= _entry_points(wheel.read(name).decode())
        except (configparser.Error, UnicodeDecodeError) as error:
            return [f"{name} cannot be read: {error}"]
    wanted = {"console_scripts": scripts(source)}
    return [] if points == wanted else ["its commands are not those of pyproject.toml"]


def differences(content: bytes, source: Path) -> list[str]:
    """What a wheel has, or lacks, against its source, worded for a person; empty if nothing."""
    if len(content) > MAX_BYTES:
        return [f"it has more than {MAX_BYTES} bytes"]
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            entries = wheel.infolist()
            if len(entries) > MAX_FILES or sum(entry.file_size for entry in entries) > MAX_BYTES:
                return [f"it unpacks to more than {MAX_BYTES} bytes or {MAX_FILES} files"]
            return _contents(wheel, source_files(source)) + _commands(wheel, source)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        return [f"it is no wheel that can be read: {error}"]
