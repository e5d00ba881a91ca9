# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.filter.finding_lines import FilterModule

finding_lines = FilterModule().filters()["finding_lines"]


def test_each_finding_is_a_line_with_the_host() -> None:
    found = [
        {"where": "/boot", "what": "it is full", "remedy": "Make room"},
        {"where": "kernel", "what": "it has no headers", "remedy": "Install them"},
    ]
    assert finding_lines(found, "inference-1") == [
        "inference-1, /boot: it is full. Make room.",
        "inference-1, kernel: it has no headers. Install them.",
    ]
    assert finding_lines([], "inference-1") == []


def test_what_is_no_finding_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="finding_lines: not described"):
        finding_lines([{"where": "/boot"}], "inference-1")
