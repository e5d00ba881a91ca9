# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let modules run as they do on a host, whatever other tests did before."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def on_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own: no controller, which shows warnings, and none kept from before."""
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)
    for kept in ("_global_warnings", "_global_deprecations"):
        monkeypatch.setattr(f"ansible.module_utils.common.warnings.{kept}", {})
