# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What preflight says in a table and as a page."""

from __future__ import annotations

import dataclasses
import html.parser
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible.errors import AnsibleFilterError
from faultless_site import GROUPS, PAIRS, SITE, as_mappings, host, info, measured, with_info
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.filter.preflight_report import preflight_report
from ansible_collections.onprem.deepseek.plugins.filter.report_words import report_words
from ansible_collections.onprem.deepseek.plugins.filter.translated import translated
from ansible_collections.onprem.deepseek.plugins.module_utils.common import findings
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.requirements import DEFAULTS
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.report import (
    Check,
    Host,
    lines,
    table,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.reports.languages import language

ROOT = Path(__file__).resolve().parents[5]
WORDS = language("en").preflight


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
    found = table(rows, WORDS)
    assert len(found) == (len(rows) + 1 if rows else 0)
    assert all(line == line.rstrip() and "\n" not in line for line in found)


def test_columns_are_below_each_other() -> None:
    first, second, third = table(
        [Check("a", "b", "failed", "c", "d", "e f"), Check("long-name", "x", "failed", "y" * 70)],
        WORDS,
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
ENVIRONMENT = jinja2.Environment(
    autoescape=jinja2.select_autoescape(default_for_string=False), undefined=jinja2.StrictUndefined
)
ENVIRONMENT.filters["onprem.deepseek.report_words"] = report_words
ENVIRONMENT.filters["onprem.deepseek.translated"] = translated
TEMPLATE = ENVIRONMENT.from_string((ROOT / "roles/preflight/templates/report.html.j2").read_text())


def page(report: dict[str, Any], language: str = "en") -> Page:
    parsed = Page()
    parsed.feed(TEMPLATE.render(preflight_report=report, __preflight_language=language))
    return parsed


# Three words of English one after the other.
ENGLISH = re.compile(r"[a-z]+,? [a-z]+,? [a-z]+")
EXPOSED = {
    "plain_pins": ["root"],
    "root_here": True,
    "authority": True,
    "tpm2": False,
    "encrypted": False,
}


def everything_wrong() -> list[Host]:
    """Hosts with nearly all that preflight itself can find wrong."""
    slow = {"rtt_ms": {"min": 1, "median": 3, "p99": 9, "max": 9}, "lost": 5, "path_mtu": 1400}
    odd = info("storage-2")
    odd["clock"].update(offset_seconds=100.0, service="", synchronised=False)
    odd["nics"]["storage"].update(mtu=1500, speed_mbps=None, unknown="it was not measured")
    odd["disk"].update(size=None, free=1, read_mb_s=1.0)
    return [
        host("gateway-1", facts=None, error="Connection refused", probes=[]),
        host(
            "inference-1",
            custody=EXPOSED,
            facts={"distribution": "Ubuntu", "distribution_version": "24.04", "user_id": "ops"},
            variables={**SITE, "deepseek_engine_flavour": "tensorrt"},
            probes=[measured(pair.server, pair.zone, **slow) for pair in PAIRS],
            transfers=[],
        ),
        host("storage-1", facts=None, error="sudo", info=None),
        host("storage-2", info=odd, broken=["something"], info_error=""),
        host("storage-3", info=None, info_error="something"),
    ]


def test_a_report_in_chinese_has_no_sentence_in_english() -> None:
    """Of all that preflight itself judges."""
    report = preflight_report(as_mappings(*everything_wrong()), GROUPS, language="zh-CN")
    own = [one for one in report["checks"] if one["name"] not in ("variables", "groups")]
    assert len({one["name"] for one in own if one["status"] == "failed"}) > 15
    shown = page({**report, "checks": own}, "zh-CN").words
    style = next(word for word in shown if "font:" in word)
    told = lines([Check(**one) for one in own], 5, "zh-CN")
    said = [*told, *(word for word in shown if word != style)]
    assert [one for one in said if ENGLISH.search(one)] == []
    assert report["lines"][0] == f"有 {report['failed']} 处需要修正；未改动任何东西。"
    assert {"上线前检查", "处理办法", "尚未判定"} <= {word.partition(":")[0] for word in shown}
    found = {one["found"] for one in report["checks"]}
    assert "as they must be" in found, "what programs read is in one language"


def test_a_language_that_does_not_exist_is_named() -> None:
    with pytest.raises(AnsibleFilterError, match="the language is en, zh-CN"):
        preflight_report(as_mappings(), GROUPS, language="de")


def test_columns_of_a_table_in_chinese_are_below_each_other() -> None:
    rows = [Check("甲", "mtu", "failed", "1400", "1500", "改"), Check("b", "rtt", "failed", "1")]
    first, second, third = table(rows, language("zh-CN").preflight)
    at = [
        findings.width(line.partition(mark)[0])
        for line, mark in ((first, "检查项"), (second, "mtu"), (third, "rtt"))
    ]
    assert len(set(at)) == 1


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
