# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make room in a host's cache for a pull: what is in use stays, and the rest goes only if there is need.

First goes what interrupted pulls have left, then one release after another, that which came first first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..artifacts.files import read_small
from ..artifacts.names import release_path
from .model import ReplicaError
from .retire import RetireError, Retirement, evict, sweep
from .served import in_use, together
from .state import list_releases


def last_served(path: str) -> list[str]:
    """The releases that the host must be able to serve, as ``<model>/<version>``; none if it has served nothing yet.

    Raises ReplicaError if *path* is not what role inference writes.
    """
    if not os.path.lexists(path):
        return []
    try:
        return in_use(together(json.loads(read_small(path))["releases"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ReplicaError(
            f"{path} does not say which releases this host has served, so none may go: {error}. "
            "Apply role onprem.deepseek.inference, which writes it, or remove the file if the host serves nothing."
        ) from error


@dataclass
class Evictor:
    """Frees space in *store*; *keep* are the releases that stay, as ``<model>/<version>``."""

    store: str
    public_key: bytes
    keep: Sequence[str]
    evicted: list[str] = field(default_factory=list)

    def make_room(self, lacking: int, spare: frozenset[tuple[str, str]]) -> None:
        """Free so many bytes, or what there is. *spare* are artifacts of what is being pulled.

        The caller holds the store's lock. A release that cannot be judged stays.
        """
        wanted = shutil.disk_usage(self.store).free + lacking
        sweep(self.store, self.public_key, spare)
        for model, version in self._oldest_first():
            if shutil.disk_usage(self.store).free >= wanted:
                return
            label = f"{model}/{version}"
            if label in self.keep:
                continue
            with contextlib.suppress(RetireError):
                evict(Retirement(self.store, model, version, self.public_key), spare)
                self.evicted.append(label)

    def _oldest_first(self) -> list[tuple[str, str]]:
        def pulled(item: tuple[str, str]) -> float:
            return os.lstat(release_path(self.store, *item)).st_mtime

        return sorted(list_releases(self.store), key=pulled)
