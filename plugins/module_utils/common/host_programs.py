# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs of this collection on a host: one Python package with what they need, and a console script for each.

The controller packs every program that there is; the host keeps what its own programs need, and nothing else. Which
programs a host has is said by its console scripts, so that several roles can each ask for theirs.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

PACKAGE = "deepseek_host"
PREFIX = "deepseek-"
MARK = "# Written by onprem.deepseek.host_programs; changes are lost."
# Far more than all programs together have; an archive that says otherwise is not ours.
MAX_BYTES = 16 * 2**20
MAX_SCRIPT = 4096
# Readable for the users that programs run as, and for all others: nothing in them is secret.
FILE_MODE, PROGRAM_MODE = 0o644, 0o755
_MODULE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_FILE = re.compile(r"([a-z_][a-z0-9_]*/)*[a-z_][a-z0-9_]*\.py", re.ASCII)


class HostProgramsError(Exception):
    """The programs cannot be installed."""


@dataclass(frozen=True)
class Offer:
    """All programs: the module of each, the files that it needs, and what is in them."""

    modules: Mapping[str, str]
    needs: Mapping[str, Sequence[str]]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """Where the package and the console scripts are; nothing else may be in *directory*."""

    directory: str
    scripts: str

    @property
    def package(self) -> str:
        return os.path.join(self.directory, PACKAGE)

    def script(self, program: str) -> str:
        return os.path.join(self.scripts, PREFIX + program)


@dataclass
class Outcome:
    """What was, or in check mode would be, changed."""

    programs: list[str]
    updated: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    diff: list[dict[str, str]] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.diff)


def pack(offer: Offer) -> str:
    """Write an offer as text; the same offer gives the same text."""
    document = {"modules": offer.modules, "needs": offer.needs, "files": offer.files}
    data = json.dumps(document, sort_keys=True).encode("utf-8")
    return base64.b64encode(gzip.compress(data, mtime=0)).decode("ascii")


def unpack(archive: str) -> Offer:
    """Read what pack wrote. Raises HostProgramsError if it is anything else, or too large."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(base64.b64decode(archive, validate=True))) as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise HostProgramsError(f"the archive has more than {MAX_BYTES} bytes")
        document = json.loads(data.decode("utf-8"))
        offer = Offer(document["modules"], document["needs"], document["files"])
        names = [*offer.files, *(file for needed in offer.needs.values() for file in needed)]
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HostProgramsError(f"the archive cannot be read: {error}") from error
    wrong = [name for name in offer.modules if not _NAME.fullmatch(name)]
    wrong += [module for module in offer.modules.values() if not _MODULE.fullmatch(module)]
    wrong += [name for name in names if not _FILE.fullmatch(name) or name not in offer.files]
    if wrong or offer.needs.keys() != offer.modules.keys():
        raise HostProgramsError(f"the archive has names that no program has: {sorted(wrong)}")
    return offer


def console_script(place: Place, module: str) -> str:
    """Isolated: neither the environment nor the working directory says what is imported, and no bytecode is left behind."""
    return (
        "#!/usr/bin/python3 -IB\n"
        f"{MARK}\n"
        "import sys\n\n"
        f"sys.path.insert(0, {place.directory!r})\n"
        f"from {PACKAGE}.{module} import main\n\n"
        "sys.exit(main())\n"
    )


def tree_of(offer: Offer, programs: Iterable[str]) -> dict[str, str]:
    """Return the files of the package for these programs, each directory of it a package of its own."""
    tree = {"__init__.py": ""}
    for program in programs:
        for path in offer.needs[program]:
            tree[path] = offer.files[path]
            parts = path.split("/")[:-1]
            for depth in range(len(parts)):
                tree["/".join([*parts[: depth + 1], "__init__.py"])] = ""
    return tree


def our_scripts(place: Place) -> dict[str, str]:
    """Return the console scripts that are there, by program. Others' files are never touched."""
    found = {}
    for name in _entries(place.scripts):
        path = os.path.join(place.scripts, name)
        if not name.startswith(PREFIX) or not stat.S_ISREG(os.lstat(path).st_mode):
            continue
        with open(path, encoding="utf-8", errors="replace") as stream:
            text = stream.read(MAX_SCRIPT)
        if text.split("\n", 2)[1:2] == [MARK]:
            found[name[len(PREFIX) :]] = text
    return found


def install(place: Place, offer: Offer, wanted: Sequence[str], write: bool) -> Outcome:
    """Make the host have the wanted programs beside those of other roles, and nothing that none of them needs.

    Raises HostProgramsError for a program that is not offered, OSError where a file cannot be written.
    """
    unknown = sorted(set(wanted) - offer.modules.keys())
    if unknown:
        raise HostProgramsError(
            f"there is no program {', '.join(unknown)}; there are {', '.join(sorted(offer.modules))}"
        )
    before_scripts, before = our_scripts(place), _read_tree(place.package)
    programs = sorted(set(wanted) | (before_scripts.keys() & offer.modules.keys()))
    scripts = {name: console_script(place, offer.modules[name]) for name in programs}
    tree = tree_of(offer, programs)
    trees = {name: tree_of(offer, [name]) for name in programs}
    rewritten = [
        name
        for name in programs
        if before_scripts.get(name) != scripts[name] or not _is(place.script(name), PROGRAM_MODE)
    ]
    package_is = before == tree and _modes_are(place.package)
    strays = _strays(place)
    outcome = Outcome(programs)
    for name in programs:
        outcome.versions[name] = _digest({**trees[name], "": scripts[name]})
    outcome.updated = [
        name
        for name in programs
        if name in rewritten or any(before.get(path) != tree[path] for path in trees[name])
    ]
    outcome.removed = [
        *sorted(place.script(name) for name in before_scripts.keys() - scripts.keys()),
        *sorted(os.path.join(place.package, path) for path in before.keys() - tree.keys()),
        *(os.path.join(place.directory, name) for name in strays),
    ]
    outcome.diff = [
        *_differences(place.package, before, tree),
        *_differences(
            place.scripts,
            {PREFIX + name: text for name, text in before_scripts.items()},
            {PREFIX + name: text for name, text in scripts.items()},
        ),
        *(_difference(os.path.join(place.directory, name), "there\n", "") for name in strays),
    ]
    # What is right but for its mode or owner counts as well.
    if not outcome.diff and (outcome.updated or not package_is):
        outcome.diff = [_difference(place.package, "other modes\n", "modes\n")]
    if write and outcome.changed:
        gone = before_scripts.keys() - scripts.keys()
        _write(place, None if package_is else tree, {name: scripts[name] for name in rewritten})
        for name in gone:
            os.unlink(place.script(name))
    return outcome


def _write(place: Place, tree: Mapping[str, str] | None, scripts: Mapping[str, str]) -> None:
    """Put the package in place at once, unless it is there, then the scripts, and remove what is beside the package."""
    os.makedirs(place.directory, mode=PROGRAM_MODE, exist_ok=True)
    if tree is not None:
        new = tempfile.mkdtemp(prefix=f".{PACKAGE}.", dir=place.directory)
        for path, text in tree.items():
            _write_file(os.path.join(new, path), text, FILE_MODE)
        for directory, _directories, _files in os.walk(new):
            os.chmod(directory, PROGRAM_MODE)
        # A program that starts between the two finds nothing, and is started again by its timer.
        if os.path.lexists(place.package):
            old = tempfile.mkdtemp(prefix=".old.", dir=place.directory)
            os.rename(place.package, os.path.join(old, PACKAGE))
        os.rename(new, place.package)
    for name, text in scripts.items():
        path = place.script(name)
        _write_file(f"{path}.new", text, PROGRAM_MODE)
        os.replace(f"{path}.new", path)
    for name in _strays(place):
        path = os.path.join(place.directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _write_file(path: str, text: str, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
        os.fchmod(stream.fileno(), mode)


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def _strays(place: Place) -> list[str]:
    """What is beside the package: of an earlier version, or left by a run that was interrupted."""
    return [name for name in _entries(place.directory) if name != PACKAGE]


def _read_tree(root: str) -> dict[str, str]:
    """Return what is below a directory, as text; what is no regular file counts as an empty one of an impossible name."""
    found = {}
    for directory, directories, files in os.walk(root):
        for name in [*directories, *files]:
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, root)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                with open(path, encoding="utf-8", errors="replace") as stream:
                    found[relative] = stream.read(MAX_BYTES)
            elif not stat.S_ISDIR(mode) or not _entries(path):
                found[relative + "/"] = ""
    return found


def _modes_are(root: str) -> bool:
    """Whether a directory and all that is in it are of this user, and writable by nobody else."""
    if os.path.islink(root) or not os.path.isdir(root):
        return False
    return all(
        _is(os.path.join(directory, name), PROGRAM_MODE if name in directories else FILE_MODE)
        for directory, directories, files in os.walk(root)
        for name in [*directories, *files]
    ) and _is(root, PROGRAM_MODE)


def _is(path: str, mode: int) -> bool:
    found = os.lstat(path)
    return stat.S_IMODE(found.st_mode) == mode and found.st_uid == os.geteuid()


def _digest(tree: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode("utf-8")).hexdigest()


def _differences(
    root: str, before: Mapping[str, str], after: Mapping[str, str]
) -> list[dict[str, str]]:
    return [
        _difference(os.path.join(root, path), before.get(path, ""), after.get(path, ""))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _difference(path: str, before: str, after: str) -> dict[str, str]:
    return {"before_header": path, "after_header": path, "before": before, "after": after}
