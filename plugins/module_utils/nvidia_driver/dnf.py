# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The driver as RPMs, through dnf 4: RHEL 9 and its rebuilds.

dnf is asked through its Python API (https://dnf.readthedocs.io/en/latest/api.html), in a process of the host's own Python, the
only one that has it. Repositories, metadata, the lock and dnf's own state are in a folder beside the host's, so that nothing on the
host changes.
"""

from __future__ import annotations

import configparser
import fnmatch
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.host_bytes import read_text
from .apt import Change, Offer, Package, Run, Source, Transaction, Words

# RHEL's own Python has dnf; elsewhere it is the distribution's.
_PYTHONS = ("usr/libexec/platform-python", "usr/bin/python3")
_RPM_FORMAT = "%{NAME}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\t%{ARCH}\t%{SOURCERPM}\n"
# dnf has no backports: what a repository offers is ordinary.
_PRIORITY = 500
_PLUGINS = ("etc", "dnf", "plugins")
# Version, release and architecture of an entry of the lock, whose name may have dashes and digits.
_LOCK_VERSION = re.compile(r"-(\d+:)?[^-]+-[^-]+$|-\d+:[^-]+$")

_WORDS = Words(
    audit="rpm --query --all",
    repair="An installation was interrupted; end it with dnf remove --duplicates",
    lists="nvidia_driver_repository",
    fetch="Correct nvidia_driver_repository and the host's own repositories (dnf repolist), or bring the mirror up",
    simulation="dnf install --assumeno",
    conflict="Look at dnf versionlock list, at excludepkgs in /etc/dnf/dnf.conf, and whether the host has the repositories of RHEL"
    " (BaseOS, AppStream) and one that has dkms (EPEL)",
    holds="/etc/dnf/plugins/versionlock.list",
    release="run dnf versionlock delete {names}",
    clean="dnf clean packages",
    initramfs="dracut --force",
)

# Reads JSON from its argument and writes JSON. Only the plugin of the lock is loaded: others may change the host
# (that of subscription-manager writes /etc/yum.repos.d/redhat.repo).
_PROGRAM = r"""
import json, sys
import dnf, dnf.exceptions

asked = json.loads(sys.argv[1])
answer = {"problems": [], "offers": {}, "changes": [], "error": ""}
base = dnf.Base()
conf = base.conf
for name, value in asked["settings"].items():
    setattr(conf, name, value)
conf.read(asked["configuration"])
for name, value in asked["settings"].items():
    setattr(conf, name, value)
conf.substitutions.update_from_etc(asked["settings"]["installroot"])
base.init_plugins(disabled_glob=["*"], enable_plugins=["versionlock"])
base.read_all_repos()
base.pre_configure_plugins()
base.configure_plugins()
for repo in base.repos.all():
    if repo.id == asked["own"]:
        repo.enable()
for repo in list(base.repos.iter_enabled()):
    if asked["fresh"]:
        repo.metadata_expire = 0
    try:
        repo.load()
    except dnf.exceptions.RepoError as error:
        optional = repo.skip_if_unavailable and repo.id != asked["own"]
        repo.disable()
        if not optional:
            answer["problems"].append("%s: %s" % (repo.id, error))
base.fill_sack(load_system_repo=True, load_available_repos=True)


def evr(package):
    return "%d:%s-%s" % (package.epoch, package.version, package.release)


for name in asked["offers"]:
    found = base.sack.query().available().filter(name=name)
    if not found:
        possible = dnf.subject.Subject(name).get_best_query(base.sack, with_provides=False, with_filenames=False)
        found = possible.available()
    answer["offers"][name] = list(dict.fromkeys(evr(one) for one in sorted(found, reverse=True)))
try:
    for spec in asked["specs"]:
        base.install(spec, strict=True)
    if asked["specs"]:
        base.resolve(allow_erasing=asked["erasing"])
        gone = {one.name: evr(one) for one in base.transaction.remove_set}
        new = {one.name: evr(one) for one in base.transaction.install_set}
        answer["changes"] = [[name, gone.get(name, ""), new.get(name, "")] for name in sorted({*gone, *new})]
except dnf.exceptions.Error as error:
    answer["error"] = str(error)
print(json.dumps(answer))
"""


def parse_installed(output: str, locks: Sequence[str]) -> dict[str, Package]:
    """Installed packages by name from rpm --query in the format of :meth:`Dnf.installed`.

    Of a package that is there in several versions, as kernels are, it is all of them, oldest first as far as text can be sorted.
    """
    found: dict[str, Package] = {}
    for line in sorted(output.splitlines()):
        name, version, arch, source = line.split("\t")
        held = any(fnmatch.fnmatchcase(f"{name}-{version}.{arch}", lock) for lock in locks)
        other = found.get(name)
        if other and other.version != version:
            version, held = f"{other.version} {version}", held and other.held
        found[name] = Package(name, version, _source_name(source), held)
    return found


def _source_name(source: str) -> str:
    """Name of a source package without version, release and suffix; rpm says (none) of keys."""
    parts = source.rsplit("-", 2)
    return parts[0] if len(parts) == 3 else ""


def parse_locks(text: str) -> list[str]:
    """Entries of versionlock.list that keep a version; those that exclude one begin with !."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("!")]


def _is_driver(entry: str) -> bool:
    """Whether an entry of the lock is one of the driver's packages."""
    return not entry.startswith("!") and Package(entry, "", entry, False).is_driver


def without_block(text: str, own: str) -> str:
    """A list without the block that the role has in it."""
    return re.sub(rf"(?ms)^# BEGIN {re.escape(own)}\n.*?^# END {re.escape(own)}\n?", "", text)


def render_lock(versions: Mapping[str, str]) -> str:
    """Lines of versionlock.list that keep each package at its version, as dnf versionlock add writes them."""
    return "".join(f"{name}-{version}.*\n" for name, version in sorted(versions.items()))


def render_repository(own: str, repository: Source) -> str:
    """A repository in the form of dnf.conf(5).

    It is not enabled: what upgrades the host at night does not see it, whatever becomes of the lock. ``module_hotfixes`` shows its
    packages whatever streams the host has enabled.
    """
    lines = [
        f"[{own}]",
        "name=Driver of NVIDIA",
        f"baseurl={repository.uri}",
        "enabled=0",
        "gpgcheck=1",
        f"gpgkey=file://{repository.signed_by}",
        "module_hotfixes=1",
        "skip_if_unavailable=0",
    ]
    return "\n".join(lines) + "\n"


@dataclass
class Dnf:
    """dnf with a folder of its own, beside the host's; *own* is the name of the role's repository and of its block in the lock."""

    run: Run
    folder: Path
    root: Path
    own: str
    repository: Source | None = None
    problems: list[str] = field(default_factory=list)
    words: Words = _WORDS

    @property
    def sources(self) -> str:
        """The repository of the role, empty if the driver comes from those of the host."""
        return render_repository(self.own, self.repository) if self.repository else ""

    def installed(self) -> dict[str, Package]:
        """All packages that are installed, by name, and held if the plugin that reads the lock is there and on."""
        return parse_installed(self._rpm(), self._locks())

    def audit(self) -> list[str]:
        """Packages of the driver that are there in more than one version, which an interrupted installation leaves."""
        found = parse_installed(self._rpm(), ())
        return [
            f"{one.name} in {one.version.replace(' ', ' and ')}"
            for one in found.values()
            if one.is_driver and " " in one.version
        ]

    def prepare(self) -> None:
        """Copy the host's repositories, metadata and lock, and fetch metadata."""
        repositories = self.folder / "repositories"
        repositories.mkdir()
        for path in sorted((self.root / "etc" / "yum.repos.d").glob("*.repo")):
            if path.stem != self.own:
                shutil.copy(path, repositories / path.name)
        if self.sources:
            (repositories / f"{self.own}.repo").write_text(self.sources)
        cache = self.root / "var" / "cache" / "dnf"
        if cache.is_dir():
            ignored = shutil.ignore_patterns("packages", "*.pid", "*.lock")
            shutil.copytree(cache, self.folder / "cache", ignore=ignored)
        (self.folder / "plugins").mkdir()
        self.pin("")
        self.problems += self._ask(fresh=True)["problems"]

    def pin(self, text: str) -> None:
        """Have these lines in the lock, beside those of the host that are not of the driver, from now on.

        Those that others have for the driver would only hide versions; :meth:`others_hold` names them.
        """
        plugins = self.folder / "plugins"
        lock = plugins / "versionlock.list"
        lines = without_block(self._lock_file(), self.own).splitlines(keepends=True)
        lock.write_text("".join(line for line in lines if not _is_driver(line)) + text)
        (plugins / "versionlock.conf").write_text(f"[main]\nenabled=1\nlocklist={lock}\n")

    def policy(self, names: Sequence[str]) -> dict[str, tuple[Offer, ...]]:
        """Versions of each package that can be had, newest first."""
        offers = self._ask(offers=names)["offers"]
        return {
            name: tuple(Offer(one, _PRIORITY) for one in versions)
            for name, versions in offers.items()
        }

    def lock(
        self, sources: Sequence[str], versions: Mapping[str, str], along: Mapping[str, str]
    ) -> str:
        """Lines for versionlock.list, for packages in their versions and for those *along*."""
        del sources
        return render_lock({**along, **versions})

    def spec(self, name: str, version: str) -> str:
        """One package in one version, as dnf takes it."""
        return f"{name}-{version}"

    def simulate(self, specs: Sequence[str], remove: Sequence[str] = ()) -> Transaction:
        """What installing *specs* would change. What has to go is told by conflicts of the packages themselves."""
        answer = self._ask(specs=specs, erasing=bool(remove))
        error = "; ".join(line.strip(" -") for line in answer["error"].splitlines() if line.strip())
        changes = tuple(Change(*change) for change in answer["changes"])
        return Transaction(changes, error)

    def others_hold(self, changes: Sequence[Change], found: Mapping[str, Package]) -> list[str]:
        """Packages that an entry outside the role's block keeps at a version, installed or not."""
        del found
        others = parse_locks(without_block(self._lock_file(), self.own))
        names = [_LOCK_VERSION.sub("", lock) for lock in others]
        return [
            one.name
            for one in changes
            if any(fnmatch.fnmatchcase(one.name, name) for name in names)
        ]

    def _rpm(self) -> str:
        return self.run(
            ["rpm", "--root", str(self.root), "--query", "--all", "--queryformat", _RPM_FORMAT]
        )[1]

    def _lock_file(self) -> str:
        path = self.root.joinpath(*_PLUGINS) / "versionlock.list"
        return read_text(path) if path.is_file() else ""

    def _locks(self) -> list[str]:
        """Entries of the lock; none if the plugin that reads it is missing or switched off, since then they keep nothing."""
        settings = configparser.ConfigParser(interpolation=None)
        settings.read(self.root.joinpath(*_PLUGINS) / "versionlock.conf", encoding="utf-8")
        enabled = settings.getboolean("main", "enabled", fallback=False)
        return parse_locks(self._lock_file()) if enabled else []

    def _ask(
        self,
        offers: Sequence[str] = (),
        specs: Sequence[str] = (),
        erasing: bool = False,
        fresh: bool = False,
    ) -> dict[str, Any]:
        """Ask dnf; what it cannot even begin with is one of the ``problems`` of the answer, and the ``error``."""
        question = {
            "settings": {
                "installroot": str(self.root),
                "reposdir": [str(self.folder / "repositories")],
                "pluginconfpath": [str(self.folder / "plugins")],
                "cachedir": str(self.folder / "cache"),
                "logdir": str(self.folder),
                "persistdir": str(self.folder / "state"),
                "clean_requirements_on_remove": False,
                "install_weak_deps": False,
                "best": True,
            },
            "configuration": str(self.root / "etc" / "dnf" / "dnf.conf"),
            "fresh": fresh,
            "own": self.own,
            "offers": list(offers),
            "specs": list(specs),
            "erasing": erasing,
        }
        python = next((one for one in _PYTHONS if (self.root / one).exists()), _PYTHONS[-1])
        rc, output, error = self.run(["/" + python, "-c", _PROGRAM, json.dumps(question)])
        if rc == 0:
            answer: dict[str, Any] = json.loads(output.splitlines()[-1])
            return answer
        said = (error.strip().splitlines() or [f"dnf ended with {rc}"])[-1]
        return {"problems": [said], "offers": {}, "changes": [], "error": said}
