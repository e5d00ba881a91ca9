# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What preflight says in a table and as a page."""

from __future__ import annotations

import dataclasses
import html.parser
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible.errors import AnsibleFilterError
from faultless_site import GROUPS, SITE, as_mappings, host, with_info
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.filter.preflight_report import preflight_report
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.requirements import DEFAULTS
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.report import (
    Check,
    lines,
    table,
)

ROOT = Path(__file__).resolve().parents[5]


def test_report_of_a_site_without_faults() -> None:
    report = preflight_report(as_mappings(), GROUPS, {"mode": "full", "port": 1, "turns": 9}, "now")
    assert (report["ok"], report["failed"], report["at"]) == (True, 0, "now")
    assert report["lines"] == ["5 hosts and the inventory are as they must be."]
    assert report["minimums"] == DEFAULTS
    assert report["network"] == {"mode": "full", "port": 1, "turns": 9}


def test_everything_is_reported_at_once() -> None:
    report = preflight_report(
        as_mappings(
            host("gateway-1", facts=None, error="no sudo", probes=[]),
            with_info("storage-1", "clock", offset_seconds=100.0),
            host("storage-2", variables={**SITE, "deepseek_x": 1}),
        ),
        {**GROUPS, "storage": ["storage-1", "storage-2"]},
    )
    assert (report["ok"], report["failed"]) == (False, 4)
    head, columns, *rows = report["lines"]
    assert head == "4 things to put right; nothing was changed."
    assert columns.split() == ["HOST", "CHECK", "FOUND", "EXPECTED", "REMEDY"]
    assert [row.split()[0] for row in rows[:4]] == ["group", "deepseek_x", "gateway-1", "storage-1"]
    assert rows[4] == "Not judged yet:"
    assert rows[5] == "gateway-1 -> inference-1, network: not measured: gateway-1 was not reached"


def test_one_thing_is_one_thing() -> None:
    assert lines([Check("a", "b", "failed", "c")], 1)[0].startswith("1 thing to put right")


def test_a_host_that_is_not_described_as_expected() -> None:
    with pytest.raises(AnsibleFilterError, match="not described as expected"):
        preflight_report([{"colour": "red"}], GROUPS)
    with pytest.raises(AnsibleFilterError, match="not described as expected"):
        preflight_report([], GROUPS, {"speed": 1})


text = st.text()


@given(cells=st.lists(st.tuples(text, text, text, text, text)))
def test_a_table_has_one_line_for_each_check(cells: list[tuple[str, ...]]) -> None:
    rows = [Check(host, name, "failed", *rest) for host, name, *rest in cells]
    found = table(rows)
    assert len(found) == (len(rows) + 1 if rows else 0)
    assert all(line == line.rstrip() and "\n" not in line for line in found)


def test_columns_are_below_each_other() -> None:
    first, second, third = table(
        [Check("a", "b", "failed", "c", "d", "e f"), Check("long-name", "x", "failed", "y" * 70)]
    )
    assert first.index("CHECK") == second.index("b") == third.index("x")
    assert first.index("EXPECTED") == second.index("d")
    assert third.endswith("  -")


# The page


class Page(html.parser.HTMLParser):
    """The text of the page, and what it would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetches: list[tuple[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetches += [one for one in attrs if one[0] in ("src", "href", "onload", "onerror")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


# As in Ansible nothing is escaped unless the template does it.
TEMPLATE = jinja2.Environment(
    autoescape=jinja2.select_autoescape(default_for_string=False), undefined=jinja2.StrictUndefined
).from_string((ROOT / "roles/preflight/templates/report.html.j2").read_text())


def page(report: dict[str, Any]) -> Page:
    parsed = Page()
    parsed.feed(TEMPLATE.render(preflight_report=report))
    return parsed


def test_the_page_of_a_site_without_faults_is_green() -> None:
    parsed = page(preflight_report(as_mappings(), GROUPS, at="2026-01-02 03:04:05 UTC"))
    assert "Passed" in parsed.words
    assert "2026-01-02 03:04:05 UTC" in "".join(parsed.words)
    assert parsed.fetches == []
    assert parsed.tags.count("table") == 1


def test_the_page_shows_every_check() -> None:
    report = preflight_report(as_mappings(with_info("storage-1", "disk", free=10**9)), GROUPS)
    parsed = page(report)
    assert "1 to put right" in parsed.words
    said = " ".join(parsed.words)
    assert all(check["found"] in said for check in report["checks"])
    assert parsed.words.count("To put right") == 1


@given(evil=st.text(alphabet="<>&\"'ab/= ;{}%") | st.just("</td><script>alert(1)</script>"))
def test_nothing_in_the_page_is_taken_for_html(evil: str) -> None:
    check = dataclasses.asdict(Check(evil, evil, "failed", evil, evil, evil))
    report = {
        "ok": False,
        "failed": 1,
        "at": evil,
        "hosts": [evil],
        "checks": [check],
        "network": {"mode": evil},
    }
    plain = {**report, "hosts": ["a"], "at": "a", "network": {"mode": "a"}}
    plain["checks"] = [dataclasses.asdict(Check("a", "a", "failed", "a", "a", "a"))]
    parsed = page(report)
    assert parsed.tags == page(plain).tags
    assert parsed.fetches == []
