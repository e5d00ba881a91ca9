# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One publish or pull at a time in a store."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from .model import StoreBusyError

# Seconds to wait for another publish or pull in the same store: either can move a terabyte.
LOCK_SECONDS = 4 * 3600.0


@contextlib.contextmanager
def store_lock(store: str, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Serialise publishing and pulling on one host; give up with a reason rather than hang."""
    path = os.path.join(store, ".lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StoreBusyError(
                        f"another publish or pull holds {path} for over {timeout:.0f} s; try again when it is done"
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)
