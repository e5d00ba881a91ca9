# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.filter.locked_for import FilterModule


def test_filter_returns_the_lock_for_one_version() -> None:
    locked_for = FilterModule().filters()["locked_for"]
    lock = "a==1 ; python_version < '3.12' --hash=sha256:aa\nb==2 --hash=sha256:bb\n"
    assert (
        locked_for(lock, "3.11") == "a==1 \\\n    --hash=sha256:aa\nb==2 \\\n    --hash=sha256:bb\n"
    )
    assert locked_for(lock, "3.13", machine="aarch64") == "b==2 \\\n    --hash=sha256:bb\n"


def test_filter_error_says_what_is_wrong() -> None:
    with pytest.raises(AnsibleFilterError, match="not a requirement pinned"):
        FilterModule().filters()["locked_for"]("numpy", "3.11")
