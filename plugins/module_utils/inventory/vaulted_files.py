# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of variables that are encrypted as a whole. Without their password Ansible ends before the first task, and does not say which they are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_HEAD = b"$ANSIBLE_VAULT;"
_DIRECTORIES = ("group_vars", "host_vars")


def vaulted_files(sources: Iterable[str]) -> list[str]:
    """The encrypted files beside or below inventory sources, in order; a source that is no path, as "host," is none, has none."""
    found: set[str] = set()
    for source in sources:
        path = Path(source)
        directory = path if path.is_dir() else path.parent
        for name in _DIRECTORIES if "," not in source else ():
            found.update(str(file) for file in (directory / name).rglob("*") if _is_vaulted(file))
    return sorted(found)


def _is_vaulted(file: Path) -> bool:
    try:
        with open(file, "rb") as stream:
            return stream.read(len(_HEAD)) == _HEAD
    except OSError:
        return False
