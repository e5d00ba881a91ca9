# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let modules run as they do on a host, whatever other tests imported before."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def on_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what importing a filter does: a controller shows warnings on the screen."""
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)
