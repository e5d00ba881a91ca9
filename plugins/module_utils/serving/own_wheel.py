# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The wheel of the serving package: built once, with the wheels that it needs, and compared with its source before it is used.

Between the machine that built it and the controller it was carried by hand. It is taken only if each file that Python
would import or run is one of the source, byte for byte. So it can hold no code of others: neither a changed module, nor
a .pth file, which each start of Python would run.
"""

from __future__ import annotations

import configparser
import hashlib
import importlib
import io
import os
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "deepseek-serving"
# Bounds of what is read: many times what a wheel of ours has.
MAX_BYTES = 2**25
MAX_FILES = 2000
# Any fixed time: it makes the same source the same wheel.
EPOCH = "1767225600"
BUILD_SECONDS = 600
_METADATA = re.compile(
    r"^[A-Za-z0-9_.]+-[A-Za-z0-9_.+!]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|top_level\.txt|licenses/[A-Za-z0-9_./-]+)$"
)
_NAME = re.compile(r"deepseek_serving-(?P<version>[A-Za-z0-9_.+!]+)-py3-none-any\.whl")
_BESIDE = ("pyproject.toml", "README.md")


class WheelError(Exception):
    """The wheel could not be built."""


@dataclass(frozen=True)
class OwnWheel:
    """The wheel in a directory, and what is wrong with it."""

    name: str
    sha256: str
    problems: Sequence[str]

    @property
    def requirement(self) -> str:
        """The line of a lock that pins it; empty if there is none."""
        match = _NAME.fullmatch(self.name)
        if match is None:
            return ""
        return f"{PACKAGE}=={match['version']} \\\n    --hash=sha256:{self.sha256}\n"


def source_files(source: Path) -> dict[str, bytes]:
    """The files of the packages below src/, by the names that they have in a wheel; a linked package is one like the others."""
    root = source / "src"
    found = {}
    for directory, directories, files in os.walk(root, followlinks=True):
        directories[:] = sorted(
            name for name in directories if name != "__pycache__" and not name.endswith(".egg-info")
        )
        for name in files:
            path = Path(directory, name)
            if not name.endswith(".pyc"):
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return dict(sorted(found.items()))


def own_wheel(directory: Path, source: Path) -> OwnWheel:
    """Find the wheel in a directory, and compare it with its source."""
    there = sorted(directory.glob("*.whl"))
    if not there:
        return OwnWheel("", "", [f"there is no wheel of {PACKAGE}"])
    if len(there) > 1 or not _NAME.fullmatch(there[0].name):
        names = ", ".join(path.name for path in there)
        return OwnWheel("", "", [f"there must be one wheel of {PACKAGE}, and there is {names}"])
    with open(there[0], "rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    return OwnWheel(
        there[0].name, hashlib.sha256(content).hexdigest(), differences(content, source)
    )


# --- building ---------------------------------------------------------------------------------------


def build(source: Path, directory: Path, lock: Path, python: str, index_url: str = "") -> OwnWheel:
    """Build the wheel into a directory, in place of what is there, and return it.

    The build backend is the one of the lock. It sees a copy of the source, so that nothing is left in the collection, and
    nothing that lies there beside the source gets in. Raises WheelError, OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=directory) as temporary:
        work = Path(temporary)
        install = [*_pip(python), "install", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        install += [f"--target={work / 'backend'}", f"--requirement={lock}"]
        _run(install + ([f"--index-url={index_url}"] if index_url else []), work, {})
        _stage(source, work / "source")
        make = [*_pip(python), "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
        _run(
            [*make, f"--wheel-dir={work / 'wheel'}", str(work / "source")],
            work,
            {"PYTHONPATH": str(work / "backend"), "SOURCE_DATE_EPOCH": EPOCH},
        )
        built = own_wheel(work / "wheel", source)
        if built.problems:
            raise WheelError(f"what was built is not the source: {'; '.join(built.problems[:5])}")
        os.replace(work / "wheel" / built.name, directory / built.name)
    for path in directory.glob("*.whl"):
        if path.name != built.name:
            path.unlink()
    return built


def _pip(python: str) -> list[str]:
    return [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]


def _stage(source: Path, copy: Path) -> None:
    files = {f"src/{name}": content for name, content in source_files(source).items()}
    files |= {name: (source / name).read_bytes() for name in _BESIDE}
    for name, content in files.items():
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        # the mode gets into the wheel
        path.chmod(0o644)


def _run(command: Sequence[str], work: Path, environment: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=work,
            env={**os.environ, **environment},
            timeout=BUILD_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise WheelError(f"pip was not done after {BUILD_SECONDS} seconds") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise WheelError(f"{' '.join(command[:3])} {command[6]} failed: {said}")


# --- comparing --------------------------------------------------------------------------------------


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
