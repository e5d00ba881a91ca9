# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.onprem.deepseek.plugins.module_utils.common.findings import Finding, table


def test_a_finding_is_one_line_with_its_remedy() -> None:
    finding = Finding("storage-1", "it has no key", "Run role tls on it")
    assert str(finding) == "storage-1: it has no key. Run role tls on it."
    assert finding.as_dict() == {
        "where": "storage-1",
        "what": "it has no key",
        "remedy": "Run role tls on it",
    }
    assert not finding.ok


def test_a_table_has_columns_as_wide_as_their_cells_up_to_a_limit() -> None:
    assert table(("A", "B", "C"), []) == []
    assert table(("A", "B", "C"), [("one", "", "x\ny"), ("z" * 70, "b", "c")]) == [
        f"{'A':60}  B  C",
        f"{'one':60}  -  x y",
        f"{'z' * 70}  b  c",
    ]
