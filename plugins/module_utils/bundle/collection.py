# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tarball of the collection without the moment at which it was built."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile

from ..artifacts.names import ArtifactError

_MAX_TARBALL = 256 * 1024 * 1024


def undate(directory: str) -> str:
    """Rewrite the one tarball of a directory with no time and no owner in it; returns the collection's version.

    What is so already stays. Raises ArtifactError.
    """
    versions = []
    for name in sorted(os.listdir(directory)):
        if name.endswith(".tar.gz"):
            path = os.path.join(directory, name)
            with open(path, "rb") as stream:
                before = stream.read(_MAX_TARBALL)
            after, version = _undated(before, name)
            versions.append(version)
            if after != before:
                with open(f"{path}.new", "wb") as stream:
                    stream.write(after)
                os.replace(f"{path}.new", path)
    if len(versions) != 1:
        raise ArtifactError(f"{directory} has {len(versions)} tarballs, and must have one")
    return versions[0]


def _undated(data: bytes, name: str) -> tuple[bytes, str]:
    plain = io.BytesIO()
    try:
        with (
            tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as old,
            tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as new,
        ):
            manifest = old.extractfile("MANIFEST.json")
            about = json.load(manifest)["collection_info"] if manifest is not None else {}
            for entry in sorted(old, key=lambda one: one.name):
                entry.mtime = entry.uid = entry.gid = 0
                entry.uname = entry.gname = ""
                entry.pax_headers = {}
                new.addfile(entry, old.extractfile(entry) if entry.isreg() else None)
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{name} is no tarball of a collection: {error}") from error
    return gzip.compress(plain.getvalue(), mtime=0), str(about.get("version", ""))
