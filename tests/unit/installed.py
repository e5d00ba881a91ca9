# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as a user has it: the tarball, installed read-only, and run by another user.

The virtual environment has ansible-core, what ``meta/ee-requirements.txt`` declares and what these
need, and nothing else. Started as root, programs run as ``NOBODY``.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
DECLARED = ROOT / "meta/ee-requirements.txt"
NOBODY = 65534
AS_ROOT = os.geteuid() == 0


def declared() -> list[Requirement]:
    lines = DECLARED.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def needed() -> set[str]:
    """Names of ansible-core, what is declared, and what they need."""
    found: set[str] = set()
    waiting = [Requirement("ansible-core"), *declared()]
    while waiting:
        one = waiting.pop()
        name = one.name.lower()
        if name not in found and (one.marker is None or one.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += map(Requirement, importlib.metadata.requires(name) or [])
    return found


def environment(directory: Path) -> None:
    """Make the virtual environment of packages that are here, without an index."""
    venv.create(directory, symlinks=True)
    packages = next(directory.glob("lib/python3*/site-packages"))
    for name in needed():
        for file in importlib.metadata.files(name) or []:
            # No programs: Python starts them by their modules. With the times, bytecode is kept.
            source = Path(str(file.locate()))
            if ".." not in file.parts and source.exists():
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)


@dataclass(frozen=True)
class Installed:
    """``home`` is the user's, who may write there alone; ``collection`` is what was installed."""

    directory: Path

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def python(self) -> Path:
        return self.directory / "venv/bin/python"

    @property
    def packages(self) -> Path:
        return next(self.directory.glob("venv/lib/python3*/site-packages"))

    @property
    def tarball(self) -> Path:
        return next(self.directory.glob("*.tar.gz"))

    @property
    def collection(self) -> Path:
        return self.directory / "collections/ansible_collections/onprem/deepseek"

    def install(self) -> None:
        """Build the tarball, and install it where nobody may write."""
        galaxy = str(Path(sys.executable).with_name("ansible-galaxy"))
        there = str(self.directory)
        here = {name: value for name, value in os.environ.items() if name != "ANSIBLE_CONFIG"}
        for command in (
            ["build", "--output-path", there, str(ROOT)],
            ["install", "--offline", "--collections-path", f"{there}/collections"],
        ):
            tarball = [] if command[0] == "build" else [str(self.tarball)]
            subprocess.run(
                [galaxy, "collection", *command, *tarball],
                env={**here, "ANSIBLE_HOME": there},
                cwd=there,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        environment(self.directory / "venv")
        for path in [*(self.directory / "collections").rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        self.directory.chmod(0o755)
        self.home.mkdir()
        if AS_ROOT:
            os.chown(self.home, NOBODY, NOBODY)

    def state(self) -> dict[str, int]:
        """The files of the installed collection, with the times when they were written."""
        return {str(path): path.lstat().st_mtime_ns for path in self.collection.rglob("*")}

    def ansible(
        self, program: str, *arguments: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of Ansible, such as ``playbook``, as the user."""
        return subprocess.run(
            [str(self.python), "-m", "ansible", program, *arguments],
            env={
                "HOME": str(self.home),
                "PATH": f"{self.python.parent}:/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                "ANSIBLE_COLLECTIONS_PATH": str(self.directory / "collections"),
                # A user who is not of the machine's list has no home there.
                "ANSIBLE_REMOTE_TMP": str(self.home / ".ansible/tmp"),
                "ANSIBLE_NOCOLOR": "1",
            },
            cwd=cwd or self.home,
            capture_output=True,
            text=True,
            check=False,
            **({"user": NOBODY, "group": NOBODY, "extra_groups": []} if AS_ROOT else {}),
        )

    def remove(self) -> None:
        subprocess.run(["chmod", "-R", "u+w", str(self.directory)], check=True)
        shutil.rmtree(self.directory)
