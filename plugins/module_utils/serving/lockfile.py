# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a lock of Python requirements (the format of pip's requirements files, with hashes)."""

from __future__ import annotations

import re
from dataclasses import dataclass

try:
    from packaging.markers import InvalidMarker, Marker

    HAS_PACKAGING = True
except ImportError:
    HAS_PACKAGING = False

_REQUIREMENT = re.compile(
    r"^(?P<pin>[A-Za-z0-9][A-Za-z0-9._-]*==[^\s;]+)\s*(?:;(?P<marker>.*?))?\s*(?P<hashes>(?:--hash=\S+\s*)+)$"
)
_PYTHON = re.compile(r"^3\.\d+$")


class LockError(ValueError):
    """A lock that cannot be used; the message says which line and why."""


@dataclass(frozen=True)
class Requirement:
    """One pinned requirement: name and version, where it applies, and the accepted hashes."""

    pin: str
    marker: str
    hashes: tuple[str, ...]

    def text(self) -> str:
        """The requirement without its marker, in pip's format."""
        return " \\\n    ".join((self.pin, *self.hashes)) + "\n"


def parse(lock: str) -> list[Requirement]:
    """Return the requirements of a lock. Refuses a line that is not pinned or has no hash.

    A byte order mark, tabs and CR LF are taken, as editors on other systems leave them.
    """
    if "\0" in lock or "\udcff" in lock or "\ufffd" in lock:
        raise LockError("it is not UTF-8 (UTF-16, perhaps): save it as UTF-8")
    lines = lock.removeprefix("\ufeff").replace("\r\n", "\n").replace("\\\n", " ").split("\n")
    requirements = []
    # by line feeds alone: the other separators of str.splitlines are text in a comment
    for line in lines:
        stripped = line.split(" #", 1)[0].strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _REQUIREMENT.match(stripped)
        if match is None:
            raise LockError(f"not a requirement pinned with '==' and '--hash=': {stripped[:120]!r}")
        requirements.append(
            Requirement(
                match["pin"], (match["marker"] or "").strip(), tuple(match["hashes"].split())
            )
        )
    return requirements


def environment(python: str, machine: str) -> dict[str, str]:
    """The marker environment of CPython on Linux, whatever the interpreter that runs this."""
    if not _PYTHON.match(python):
        raise LockError(f"the Python version must look like '3.11', not {python!r}")
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }


def applicable(lock: str, python: str, machine: str) -> list[Requirement]:
    """The requirements that apply to one Python version and machine type.

    pip evaluates markers for the interpreter that runs it, even when it downloads for another
    one, so they are evaluated here.
    """
    if not HAS_PACKAGING:
        raise LockError(
            "the Python library 'packaging' is missing where Ansible runs; install it with: pip install packaging"
        )
    target = environment(python, machine)
    chosen = []
    for requirement in parse(lock):
        try:
            applies = not requirement.marker or Marker(requirement.marker).evaluate(dict(target))
        except InvalidMarker as error:
            raise LockError(
                f"{requirement.pin}: the marker {requirement.marker!r} is not valid: {error}"
            ) from error
        if applies:
            chosen.append(requirement)
    return chosen


def addition(published: str, own: str, package: str) -> Requirement:
    """The one requirement that a published lock has beyond our own lock: that of a package of ours.

    Raises LockError if the locks differ in anything else.
    """
    have, want = parse(published), parse(own)
    extra = [requirement for requirement in have if requirement not in want]
    missing = [requirement.pin for requirement in want if requirement not in have]
    if missing:
        raise LockError(f"{', '.join(missing[:3])} is not in it with the marker and hashes of ours")
    if len(extra) != 1 or extra[0].pin.partition("==")[0] != package or extra[0].marker:
        names = ", ".join(requirement.pin for requirement in extra[:3]) or "nothing"
        raise LockError(f"it must add {package} to ours, and adds {names}")
    return extra[0]


def unlocked(sums: str, lock: str) -> list[str]:
    """Names of the files in a list of SHA-256 sums (as sha256sum writes it) whose sum the lock does not have."""
    known = {hash_ for requirement in parse(lock) for hash_ in requirement.hashes}
    lines = [line.partition("  ") for line in sums.split("\n") if line.strip()]
    return [
        name or digest for digest, _blanks, name in lines if f"--hash=sha256:{digest}" not in known
    ]
