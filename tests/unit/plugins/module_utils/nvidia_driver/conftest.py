# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with an H100, whose packages, modules and answers a test can choose."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded_machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)
