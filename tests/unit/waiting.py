# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the tests wait for what must come.

A limit is there to end a test that hangs, and judges no speed: a machine that is ten times slower
must pass every test. A shorter limit stands only where it is what the test is about.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 300
"""Seconds after which what has not come will not come."""


def until(condition: Callable[[], object]) -> None:
    """Look until it is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it did not come in {PATIENCE} s"
        time.sleep(0.02)
