# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.filter.workers import FilterModule


def test_filter_fills_in() -> None:
    (only,) = FilterModule().filters()["workers"]([{"name": "a"}], 8000)
    assert (only["name"], only["port"]) == ("a", 8000)


def test_filter_error_says_what_is_wrong() -> None:
    with pytest.raises(AnsibleFilterError, match="deepseek_workers: worker 1: its name is 'A'"):
        FilterModule().filters()["workers"]([{"name": "A"}], 8000)
