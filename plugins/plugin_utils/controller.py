# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the controller can run this collection's playbooks, and read the inventory that it was given.

It imports nothing of the collection, and nothing that ansible-core does not need itself: it has to run where the rest does not.
"""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from packaging.requirements import Requirement

META = Path(__file__).parents[2] / "meta"
RUNTIME = "runtime.yml"
PYTHON = "ee-requirements.txt"


def software(ansible: str, meta: Path = META) -> Iterator[str]:
    """What the environment that Ansible runs in lacks, each with what to do. ``ansible``: the version that runs."""
    # Of ansible-core itself; where Ansible's own tests import this, it is not there.
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    wanted = yaml.safe_load((meta / RUNTIME).read_text(encoding="utf-8"))["requires_ansible"]
    if not SpecifierSet(wanted).contains(ansible, prereleases=True):
        yield (
            f"ansible-core {ansible} runs this, and the collection needs {wanted}. "
            f"{_install(f'ansible-core{wanted}')}"
        )
    for line in (meta / PYTHON).read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield from _package(Requirement(line))


def _package(wanted: Requirement) -> Iterator[str]:
    try:
        found = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        found = ""
    if not found or not wanted.specifier.contains(found, prereleases=True):
        has = f"has {wanted.name} {found}" if found else f"has no {wanted.name}"
        yield (
            f"the Python that runs Ansible {has}, and the collection needs {wanted}. "
            f"{_install(str(wanted))}"
        )


def _install(requirement: str) -> str:
    return f"Install it there: {sys.executable} -m pip install '{requirement}'"


def inventory(sources: Sequence[str], hosts: Sequence[str]) -> Iterator[str]:
    """Why the inventory is not what the site says. Ansible warns of what it cannot read, and goes on without it.

    ``sources``: what ``-i`` or ansible.cfg names, absolute, or hosts with commas between them; ``hosts``: all that were found.
    """
    paths = [Path(source) for source in sources if "," not in source]
    found = [problem for path in paths for problem in _unreadable(path)]
    yield from found
    if not hosts and not found:
        named = ", ".join(sources) or "nowhere"
        yield (
            f"the inventory has no host; it was looked for in {named}. Name yours with -i, or as inventory in ansible.cfg; "
            f"'ansible-inventory --graph' shows what Ansible makes of it, and warns of what it cannot parse"
        )


def _unreadable(source: Path) -> Iterator[str]:
    if not os.path.lexists(source):
        yield (
            f"the inventory {source} does not exist, or is where {_user()} may not look. Correct the path that -i or ansible.cfg gives"
        )
        return
    yield from _tree(source)
    if not source.is_dir():
        for name in ("group_vars", "host_vars"):
            if os.path.lexists(source.parent / name):
                yield from _tree(source.parent / name)


def _tree(path: Path) -> Iterator[str]:
    """Everything of a part of the inventory that cannot be read."""
    needed = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    if not os.access(path, needed):
        yield f"the inventory's {path} may not be read by {_user()}, who runs Ansible. Let this user read it"
    elif path.is_dir():
        for name in sorted(os.listdir(path)):
            if not name.startswith("."):
                yield from _tree(path / name)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
