# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One publish or pull at a time in a store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..common.file_lock import file_lock
from .model import StoreBusyError

# Seconds to wait for another publish or pull in the same store: either can move a terabyte.
LOCK_SECONDS = 4 * 3600.0


@contextlib.contextmanager
def store_lock(store: str, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Serialise publishing and pulling on one host; give up with a reason rather than hang."""
    path = os.path.join(store, ".lock")
    busy = StoreBusyError(
        f"another publish or pull holds {path} for over {timeout:.0f} s; try again when it is done"
    )
    with file_lock(path, timeout, busy):
        yield
