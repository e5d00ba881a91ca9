# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The driver as packages: which are there, which versions can be had, and what an installation would change.

:class:`Apt` asks the package manager of Debian and Ubuntu without changing the host: it has a directory of its own for package lists,
sources and preferences, so that a repository can be tried before it is configured.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..common.commands import Run

# Below this, APT prefers what is installed (apt_preferences(5)): backports, and what was pinned away.
_ORDINARY_PRIORITY = 500
# Source packages of the driver, for holds and for the pin. The container toolkit has versions of its own.
_DRIVER_SOURCE = re.compile(r"nvidia|fabricmanager|nvlsm|cuda-drivers")
_OTHER_SOURCE = re.compile(r"container|cuda-toolkit|settings")
# Packages that are a kernel, by the names of Debian and Ubuntu; headers alone are none.
_KERNEL = re.compile(r"linux-(image|modules)-")
_DPKG_FORMAT = "${Package}\t${Version}\t${source:Package}\t${db:Status-Want}\t${db:Status-Status}\n"
_POLICY_VERSION = re.compile(r"^ (?:\*\*\*|   ) (\S+) (-?\d+)$")
_SIMULATED = re.compile(r"^(Inst|Remv) (\S+)(?: \[([^\]]+)\])?(?: \((\S+))?")


@dataclass(frozen=True)
class Package:
    """An installed package."""

    name: str
    version: str
    source: str
    held: bool

    @property
    def is_driver(self) -> bool:
        """Whether it belongs to NVIDIA's driver."""
        return bool(_DRIVER_SOURCE.search(self.source)) and not _OTHER_SOURCE.search(self.source)

    @property
    def is_kernel(self) -> bool:
        """Whether it is a kernel."""
        return is_kernel(self.name)


@dataclass(frozen=True)
class Change:
    """What a transaction does to a package; ``old`` is empty for a new one, ``new`` for one that is removed."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Transaction:
    """What an installation would change; ``error`` is why it cannot be done, empty if it can."""

    changes: tuple[Change, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Offer:
    """A version of a package that can be had, and APT's priority for it."""

    version: str
    priority: int


def is_kernel(name: str) -> bool:
    """Whether a package of this name is a kernel."""
    return _KERNEL.match(name) is not None


def upstream(version: str) -> str:
    """NVIDIA's version in a package's version: 535.261.03 in 3:535.261.03-1~deb12u1."""
    return version.rpartition(":")[2].partition("-")[0]


def matches(version: str, wanted: str) -> bool:
    """Whether a package's version is the wanted one, which may be given with the package's revision or without."""
    return wanted in (version, version.rpartition(":")[2], upstream(version))


def parse_installed(output: str) -> dict[str, Package]:
    """Installed packages by name, from dpkg-query in the format of :func:`installed`."""
    found = {}
    for line in output.splitlines():
        name, version, source, want, status = line.split("\t")
        if status == "installed":
            found[name] = Package(name, version, source, want == "hold")
    return found


def installed(run: Run) -> dict[str, Package]:
    """All packages that are installed, by name."""
    return parse_installed(run(["dpkg-query", "--show", f"--showformat={_DPKG_FORMAT}"])[1])


def audit(run: Run) -> list[str]:
    """What dpkg says of packages that are half-installed or otherwise broken, empty if there are none."""
    return [
        line.strip()
        for line in run(["dpkg", "--audit"])[1].splitlines()
        if line.startswith(" ") and line.strip()
    ]


def parse_policy(output: str) -> dict[str, tuple[Offer, ...]]:
    """Versions of each package that a repository has, newest first, from apt-cache policy.

    A version that only dpkg knows is no offer.
    """
    found: dict[str, list[Offer]] = {}
    name, version = "", None
    for line in output.splitlines():
        entry = _POLICY_VERSION.match(line)
        if line and not line.startswith(" "):
            name, version = line.rstrip(":"), None
            found[name] = []
        elif entry:
            version = Offer(entry.group(1), int(entry.group(2)))
        elif version and line.startswith("        ") and "/var/lib/dpkg/status" not in line:
            found[name].append(version)
            version = None
    return {name: tuple(offers) for name, offers in found.items()}


def parse_transaction(output: str) -> tuple[Change, ...]:
    """Changes in the output of apt-get --simulate."""
    found = []
    for line in output.splitlines():
        entry = _SIMULATED.match(line)
        if entry:
            verb, name, old, new = entry.groups(default="")
            found.append(Change(name, old, "" if verb == "Remv" else new))
    return tuple(found)


def complaint(output: str, error: str) -> str:
    """What APT said in one line: its errors, and the dependencies that it could not meet."""
    dependencies = [
        line.strip() for line in output.splitlines() if "Depends:" in line or "Conflicts:" in line
    ]
    errors = [
        line[2:].strip() for line in f"{output}\n{error}".splitlines() if line.startswith("E:")
    ]
    return "; ".join(dict.fromkeys(errors + dependencies)) or "no reason given"


def available(
    offers: Mapping[str, Sequence[Offer]], names: Sequence[str], ordinary: bool = False
) -> list[str]:
    """NVIDIA's versions that all of *names* have together, newest first; *ordinary* leaves out backports."""
    least = _ORDINARY_PRIORITY if ordinary else 0
    each = [
        [upstream(offer.version) for offer in offers.get(name, ()) if offer.priority >= least]
        for name in names
    ]
    return [
        version
        for version in dict.fromkeys(each[0] if each else ())
        if all(version in versions for versions in each)
    ]


def exact(offers: Sequence[Offer], wanted: str) -> str:
    """The package's full version that *wanted* means: the newest of the highest priority, empty if there is none."""
    fitting = [offer for offer in offers if matches(offer.version, wanted)]
    best = max((offer.priority for offer in fitting), default=0)
    return next((offer.version for offer in fitting if offer.priority == best), "")


def preferences(sources: Sequence[str], versions: Sequence[str]) -> str:
    """APT preferences that let packages of these sources have these full versions and no other (apt_preferences(5)).

    More than one version is for modules and libraries from different sources, whose packages have revisions of their own.
    """
    names = " ".join(f"src:{source}" for source in sources)
    return "\n".join(
        f"Package: {names}\nPin: version {version}\nPin-Priority: 1001\n"
        for version in dict.fromkeys(versions)
    )


@dataclass(frozen=True)
class Source:
    """One APT source. ``signed_by`` is a keyring or a key, empty where APT's own keyrings count."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


def parse_sources(name: str, text: str) -> list[Source]:
    """Sources of packages in a file of APT's, in deb822 form if its *name* says so (sources.list(5))."""
    return _deb822(text) if name.endswith(".sources") else _one_line(text)


def _one_line(text: str) -> list[Source]:
    found = []
    for line in text.splitlines():
        entry = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if entry:
            options, uri, suite, components = entry.groups(default="")
            key = re.search(r"signed-by=(\S+)", options)
            found.append(
                Source(uri, (suite,), tuple(components.split()), key.group(1) if key else "")
            )
    return found


def _deb822(text: str) -> list[Source]:
    found = []
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", uncommented):
        fields = {
            key.lower(): value.strip()
            for key, value in re.findall(r"(?m)^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
            continue
        found += [
            Source(
                uri,
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
            )
            for uri in fields.get("uris", "").split()
        ]
    return found


def more_of(
    existing: Sequence[Source], codename: str, mirrors: Sequence[str], components: Sequence[str]
) -> list[Source]:
    """Sources of further *components* of a Debian release.

    They come from *mirrors*, that of the release and that of its security updates, either of which may be empty; then from
    where the host has the component main. Backports are taken only from there. APT refuses two sources of one repository that
    name different keyrings, so what the host's own source says counts there.
    """
    found: dict[tuple[str, str], Source] = {}
    for suites, mirror in (
        ((codename, f"{codename}-updates"), mirrors[0]),
        ((f"{codename}-security",), mirrors[1]),
        ((f"{codename}-backports",), ""),
    ):
        for suite in suites:
            there = [source for source in existing if suite in source.suites]
            uris = [mirror] if mirror else [one.uri for one in there if "main" in one.components]
            for uri in uris:
                same = [one for one in there if one.uri.rstrip("/") == uri.rstrip("/")]
                has = {component for one in same for component in one.components}
                missing = tuple(one for one in components if one not in has)
                keys = [one.signed_by for one in same if one.signed_by]
                if missing:
                    found.setdefault(
                        (uri.rstrip("/"), suite),
                        Source(uri, (suite,), missing, keys[0] if keys else ""),
                    )
    return list(found.values())


def render_sources(sources: Sequence[Source]) -> str:
    """Sources in deb822 form."""
    stanzas = []
    for source in sources:
        lines = ["Types: deb", f"URIs: {source.uri}", f"Suites: {' '.join(source.suites)}"]
        lines += [f"Components: {' '.join(source.components)}"] if source.components else []
        lines += [f"Signed-By: {source.signed_by}"] if source.signed_by else []
        stanzas.append("\n".join(lines) + "\n")
    return "\n".join(stanzas)


@dataclass
class Apt:
    """APT with a directory of its own, beside the host's: *sources* and *pins* are those that the host would get.

    ``own`` is the name of the files that they would have in /etc/apt; the host's files of that name are left out.
    """

    run: Run
    directory: Path
    root: Path
    own: str
    sources: str = ""
    problems: list[str] = field(default_factory=list)

    def installed(self) -> dict[str, Package]:
        """All packages that are installed, by name."""
        return installed(self.run)

    def audit(self) -> list[str]:
        """What dpkg says of packages that are half-installed or otherwise broken."""
        return audit(self.run)

    def prepare(self) -> None:
        """Copy the host's configuration and lists, add the new source, and fetch lists."""
        etc = self.root / "etc" / "apt"
        for name, suffixes in (("sources.list.d", (".list", ".sources")), ("preferences.d", ("",))):
            target = self.directory / name
            target.mkdir()
            for path in sorted((etc / name).glob("*")) if (etc / name).is_dir() else ():
                if path.is_file() and path.stem != self.own and path.name.endswith(suffixes):
                    shutil.copy(path, target / path.name)
        if self.sources:
            (self.directory / "sources.list.d" / f"{self.own}.sources").write_text(self.sources)
        lists = self.directory / "lists"
        lists.mkdir()
        for path in (self.root / "var" / "lib" / "apt" / "lists").glob("*"):
            if path.is_file() and path.name != "lock":
                shutil.copy2(path, lists / path.name)
        self.directory.chmod(0o755)
        rc, output, error = self.run(["apt-get", *self._options(), "update"])
        said = [
            line[2:].strip()
            for line in f"{output}\n{error}".splitlines()
            if line.startswith(("E:", "W: Failed"))
        ]
        if rc or said:
            self.problems.append(
                "; ".join(dict.fromkeys(said)) or f"apt-get update ended with {rc}"
            )

    def pin(self, text: str) -> None:
        """Have preferences of our own from now on."""
        (self.directory / "preferences.d" / self.own).write_text(text)

    def policy(self, names: Sequence[str]) -> dict[str, tuple[Offer, ...]]:
        """Versions of each package that can be had."""
        return parse_policy(self.run(["apt-cache", *self._options(), "policy", *names])[1])

    def spec(self, name: str, version: str) -> str:
        """One package in one version, as apt-get takes it."""
        return f"{name}={version}"

    def others_hold(self, changes: Sequence[Change], found: Mapping[str, Package]) -> list[str]:
        """Packages that are held, if the role has no preferences on the host; with them, the holds are its own."""
        if (self.root / "etc" / "apt" / "preferences.d" / self.own).exists():
            return []
        return [one.name for one in changes if one.name in found and found[one.name].held]

    def simulate(self, specs: Sequence[str], remove: Sequence[str] = ()) -> Transaction:
        """What installing *specs* (name=version) and removing *remove* would change."""
        rc, output, error = self.run(
            [
                "apt-get", *self._options(), "--simulate", "--no-install-recommends", "--yes",
                "--allow-change-held-packages", "--allow-downgrades", "install", *specs,
                *(f"{name}-" for name in remove),
            ]
        )  # fmt: skip
        return Transaction(parse_transaction(output), complaint(output, error) if rc else "")

    def _options(self) -> list[str]:
        settings = {
            "Dir::Etc::SourceParts": self.directory / "sources.list.d",
            "Dir::Etc::PreferencesParts": self.directory / "preferences.d",
            "Dir::State::Lists": self.directory / "lists",
            # Made once of the lists, and read by all questions; the host's own is of its own sources.
            "Dir::Cache": self.directory,
            "APT::Update::Pre-Invoke": "",
            "Debug::NoLocking": "true",
            "Acquire::Retries": "1",
        }
        return [f"--option={name}={value}" for name, value in settings.items()]
