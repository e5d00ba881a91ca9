# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A checkpoint without problems, which a test may spoil."""

from __future__ import annotations

from pathlib import Path

import pytest
from whole_checkpoint import write


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write(tmp_path / "checkpoint")
