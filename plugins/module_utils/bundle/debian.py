# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian packages of a bundle: apt says which they are and downloads them, dpkg-scanpackages lists them, gpg signs the list.

apt works in a directory of its own, against an empty dpkg status: what the machine has installed would be missing in the bundle.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

from ..artifacts.files import read_small
from ..artifacts.hashing import sha256_file
from ..artifacts.names import ArtifactError
from ..common.commands import Completed, Run

INDEX, RELEASE, SIGNED = "Packages", "Release", "InRelease"
INDEX_KEY = "index-key.asc"
# An address, the archive's name, bytes and a hash, which is empty for those of signed lists with stronger ones.
_URI = re.compile(r"^'[^']+' (?P<name>\S+\.deb) [0-9]+( .*)?$")
_EPOCH = re.compile(r"_[0-9]+%3a", re.IGNORECASE)
# As uname says it, and as Debian does.
DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Suite:
    """A suite, and what is wanted of it. *automatic* false: apt takes of it what is asked from it by name, as from backports."""

    name: str
    packages: tuple[str, ...]
    automatic: bool = True


class AptDirectory:
    """apt with sources, lists and cache of its own below a directory."""

    def __init__(self, run: Run, root: str, sources: str, architecture: str) -> None:
        self._run = run
        self._root = root
        self._architecture = architecture
        for name in ("state/lists/partial", "cache/archives/partial", "none/partial", "etc"):
            os.makedirs(os.path.join(root, name), exist_ok=True)
        self._write("etc/sources.list", sources)
        self._write("state/status", "")

    def _write(self, name: str, text: str) -> None:
        with open(os.path.join(self._root, name), "w", encoding="utf-8") as stream:
            stream.write(text)

    def apt(self, *arguments: str) -> Completed:
        """Run apt-get; raises ArtifactError with what it says."""
        settings = {
            "Dir::State": f"{self._root}/state",
            "Dir::State::status": f"{self._root}/state/status",
            "Dir::Cache": f"{self._root}/cache",
            "Dir::Etc::sourcelist": f"{self._root}/etc/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": self._architecture,
            "APT::Architectures": self._architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        done = self._run(["apt-get", "--quiet", *options, *arguments])
        if done.rc != 0:
            raise ArtifactError(f"apt-get {arguments[0]}: {_last(done)}")
        return done

    def update(self) -> None:
        self.apt("update", "--error-on=any")

    @staticmethod
    def wanted(suite: Suite) -> list[str]:
        """Arguments of an installation."""
        release = [] if suite.automatic else ["--target-release", suite.name]
        return [*suite.packages, *release]

    def closure(self, suite: Suite) -> list[str]:
        """Names in apt's archive of all packages that these need, themselves among them, after downloading them.

        What is there already is kept; apt compares sums.
        """
        wanted = ["install", "--yes", "--download-only", *self.wanted(suite)]
        self.apt(*wanted)
        # It prints no address of what its cache has, and so looks into one that is empty.
        printed = self.apt(
            *wanted, "--print-uris", "-o", f"Dir::Cache::archives={self._root}/none/"
        )
        names = [
            match["name"] for line in printed.stdout.splitlines() if (match := _URI.match(line))
        ]
        return sorted(names)

    def archive(self, name: str) -> str:
        return os.path.join(self._root, "cache/archives", name)

    def inreleases(self) -> dict[str, bytes]:
        """What the archives signed, by file name: where the packages are from."""
        lists = os.path.join(self._root, "state/lists")
        return {
            name: read_small(os.path.join(lists, name))
            for name in sorted(os.listdir(lists))
            if name.endswith(f"_{SIGNED}")
        }


def _last(done: Completed) -> str:
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E:")]
    return "; ".join(errors or lines[-3:]) or f"it ended with status {done.rc}"


def epoch_of(inreleases: Mapping[str, bytes]) -> int:
    """Seconds since 1970 of the newest of these lists; 0 without one that has a date."""
    dates = [re.search(rb"^Date: (.+)$", data, re.MULTILINE) for data in inreleases.values()]
    found = [
        int(parsedate_to_datetime(date[1].decode("ascii", "replace")).timestamp())
        for date in dates
        if date
    ]
    return max(found, default=0)


def collect(
    run: Run, apt: AptDirectory, suites: Sequence[Suite], directory: str, architecture: str
) -> list[str]:
    """Fill *directory* with one flat repository for each suite; returns the names of all packages, sorted.

    What a suite needs and one before it has is not in it again. Raises ArtifactError.
    """
    apt.update()
    inreleases = apt.inreleases()
    shutil.rmtree(directory, ignore_errors=True)
    seen: set[str] = set()
    packages: set[str] = set()
    for suite in suites:
        names = [name for name in apt.closure(suite) if name not in seen]
        seen |= set(names)
        target = os.path.join(directory, suite.name)
        os.makedirs(target)
        for name in names:
            # Its epoch is no part of a file's name in Debian's archive either, and a % none of an address.
            os.link(apt.archive(name), os.path.join(target, _EPOCH.sub("_", name)))
        packages |= {name.partition("_")[0] for name in names}
        write_index(run, target, suite, epoch_of(inreleases), architecture)
    _prove(run, suites, directory, architecture)
    provenance = os.path.join(directory, "provenance")
    os.makedirs(provenance)
    for name, data in inreleases.items():
        with open(os.path.join(provenance, name), "wb") as stream:
            stream.write(data)
    return sorted(packages)


def _prove(run: Run, suites: Sequence[Suite], directory: str, architecture: str) -> None:
    """Have apt install everything from these repositories alone, as a host does; raises ArtifactError where something is missing."""
    with tempfile.TemporaryDirectory(prefix="bundle-") as root:
        sources = [f"deb [trusted=yes] file:{directory}/{suite.name} ./\n" for suite in suites]
        apt = AptDirectory(run, root, "".join(sources), architecture)
        apt.update()
        for suite in suites:
            apt.apt("install", "--simulate", "--yes", *apt.wanted(suite))


def write_index(run: Run, directory: str, suite: Suite, epoch: int, architecture: str) -> None:
    """Write ``Packages`` and ``Release`` of a flat repository. Raises ArtifactError."""
    done = run(["env", "--chdir", directory, "dpkg-scanpackages", "--multiversion", "."])
    if done.rc != 0:
        raise ArtifactError(f"dpkg-scanpackages: {_last(done)} (it is in the package dpkg-dev)")
    index = os.path.join(directory, INDEX)
    with open(index, "w", encoding="utf-8") as stream:
        stream.write(done.stdout)
    lines = [
        "Origin: onprem.deepseek",
        "Label: onprem.deepseek",
        f"Suite: {suite.name}",
        f"Codename: {suite.name}",
        f"Date: {formatdate(epoch, usegmt=True).replace('GMT', 'UTC')}",
        f"Architectures: all {architecture}",
        *([] if suite.automatic else ["NotAutomatic: yes", "ButAutomaticUpgrades: yes"]),
        "SHA256:",
        f" {sha256_file(index)} {os.lstat(index).st_size} {INDEX}",
    ]
    with open(os.path.join(directory, RELEASE), "w", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")


def sign_indexes(run: Run, stage: str, contents: Sequence[str], keyring: str, name: str) -> None:
    """Sign the lists of packages below a directory with the site's key, which is made where there is none, and put its public half there.

    *keyring* is the directory that gpg keeps its keys in. Raises ArtifactError.
    """
    os.makedirs(keyring, mode=0o700, exist_ok=True)
    gpg = ["gpg", "--homedir", keyring, "--batch", "--no-tty", "--quiet"]
    if "sec:" not in run([*gpg, "--list-secret-keys", "--with-colons"]).stdout:
        options = ["--pinentry-mode", "loopback", "--passphrase", ""]
        _need(run, [*gpg, *options, "--quick-generate-key", name, "ed25519", "sign", "never"])
    for content in contents:
        for suite in sorted(os.listdir(os.path.join(stage, content))):
            release = os.path.join(stage, content, suite, RELEASE)
            if os.path.isfile(release):
                signed = os.path.join(os.path.dirname(release), SIGNED)
                _need(run, [*gpg, "--clearsign", "--output", signed, release])
    _need(run, [*gpg, "--armor", "--export", "--output", os.path.join(stage, INDEX_KEY)])
    run(["gpgconf", "--homedir", keyring, "--kill", "gpg-agent"])


def _need(run: Run, command: Sequence[str]) -> None:
    done = run(command)
    if done.rc != 0:
        raise ArtifactError(f"gpg: {_last(done)} (it is in the package gnupg)")
