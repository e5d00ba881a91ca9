# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bundle is made of, package by package: name, version, hash and license, as packages themselves say them."""

from __future__ import annotations

import email
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from subprocess import PIPE, Popen

from ..artifacts.files import list_directory
from ..artifacts.hashing import sha256_file, worker_count
from ..artifacts.names import ArtifactError

# Of a package's own texts no more is read; none that is honest is as long.
_MAX_TEXT = 4 * 1024 * 1024
_LONGEST_LICENSE = 120
_LICENSE_LINE = re.compile(r"^License: *(\S[^\n]*)$", re.MULTILINE)
_CLASSIFIER = "License :: OSI Approved :: "
_ABSENT_LICENSES = ("", "UNKNOWN")


@dataclass(frozen=True)
class Component:
    """One package. *licenses* are names that it gives itself, and *expression* is an SPDX expression; both may be empty."""

    content: str
    file: str
    name: str
    version: str
    sha256: str
    purl: str
    ecosystem: str  # as OSV names it: PyPI, Debian:12
    known_as: str  # the name there: of a Debian package, that of its source
    known_version: str
    licenses: tuple[str, ...] = ()
    expression: str = ""


def debian_components(content: str, directory: str, codename: str, release: str) -> list[Component]:
    """Components of the ``.deb`` files below a directory. Raises ArtifactError."""
    files = [path for path in list_directory(directory) if path.endswith(".deb")]
    with ThreadPoolExecutor(max_workers=worker_count(len(files))) as pool:
        return list(
            pool.map(lambda path: _debian(content, directory, path, codename, release), files)
        )


def _debian(content: str, directory: str, path: str, codename: str, release: str) -> Component:
    full = os.path.join(directory, path)
    control = email.message_from_string(_output(["dpkg-deb", "--field", full]))
    name, version = control["Package"], control["Version"]
    source = re.fullmatch(r"(\S+)(?: \((\S+)\))?", control["Source"] or name)
    if source is None:
        raise ArtifactError(f"{path} has the source {control['Source']!r}")
    text = _copyright(full, name)
    licenses = sorted({match.strip()[:_LONGEST_LICENSE] for match in _LICENSE_LINE.findall(text)})
    return Component(
        content=content,
        file=path,
        name=name,
        version=version,
        sha256=sha256_file(full),
        purl=f"pkg:deb/debian/{name}@{_quoted(version)}?arch={control['Architecture']}&distro={codename}",
        ecosystem=f"Debian:{release}",
        known_as=source[1],
        known_version=source[2] or version,
        licenses=tuple(licenses),
    )


def _quoted(version: str) -> str:
    return version.replace("+", "%2B").replace(":", "%3A")


def _output(command: list[str]) -> str:
    with Popen(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        out, error = process.communicate()
    if process.returncode != 0:
        raise ArtifactError(f"{' '.join(command[:2])}: {error.strip()}")
    return out


def _copyright(deb: str, package: str) -> str:
    """The package's own copyright file; empty where it has none, as where it links to that of another package."""
    wanted = f"./usr/share/doc/{package}/copyright"
    command = ["dpkg-deb", "--fsys-tarfile", deb]
    with Popen(command, stdout=PIPE) as process:
        if process.stdout is None:
            raise ArtifactError("dpkg-deb has no output")
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for entry in archive:
                    if entry.name == wanted:
                        stream = archive.extractfile(entry) if entry.isreg() else None
                        data = stream.read(_MAX_TEXT) if stream is not None else b""
                        return data.decode("utf-8", "replace")
        except tarfile.TarError as error:
            raise ArtifactError(f"{deb} is no package: {error}") from error
        finally:
            process.kill()
    return ""


def wheel_components(content: str, directory: str) -> list[Component]:
    """Components of the wheels below a directory. Raises ArtifactError."""
    files = [path for path in list_directory(directory) if path.endswith(".whl")]
    return [_wheel(content, directory, path) for path in files]


def _wheel(content: str, directory: str, path: str) -> Component:
    full = os.path.join(directory, path)
    metadata = email.message_from_string(_metadata(full))
    name, version = metadata["Name"], metadata["Version"]
    known_as = re.sub(r"[-_.]+", "-", name).lower()
    return Component(
        content=content,
        file=path,
        name=name,
        version=version,
        sha256=sha256_file(full),
        purl=f"pkg:pypi/{known_as}@{_quoted(version)}",
        ecosystem="PyPI",
        known_as=known_as,
        known_version=version,
        licenses=tuple(_wheel_licenses(metadata)),
        expression=metadata["License-Expression"] or "",
    )


def _wheel_licenses(metadata: email.message.Message[str, str]) -> Iterator[str]:
    if metadata["License-Expression"]:
        return
    stated = (metadata["License"] or "").strip()
    classifiers = [
        value[len(_CLASSIFIER) :]
        for value in metadata.get_all("Classifier", [])
        if value.startswith(_CLASSIFIER)
    ]
    if classifiers:
        yield from sorted(set(classifiers))
    elif stated not in _ABSENT_LICENSES:
        yield stated.splitlines()[0][:_LONGEST_LICENSE]


def _metadata(wheel: str) -> str:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [
                name
                for name in archive.namelist()
                if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)
            ]
            if len(names) != 1:
                raise ArtifactError(f"{wheel} has {len(names)} METADATA, and no wheel has but one")
            with archive.open(names[0]) as stream:
                return stream.read(_MAX_TEXT).decode("utf-8", "replace")
    except zipfile.BadZipFile as error:
        raise ArtifactError(f"{wheel} is no wheel: {error}") from error
