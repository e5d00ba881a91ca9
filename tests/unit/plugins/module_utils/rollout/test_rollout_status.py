# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status of a rollout: its table, and its page as a real browser shows it."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.filter.rollout_status import rollout_status
from ansible_collections.onprem.deepseek.plugins.module_utils.reports.languages import LANGUAGES
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout import judge
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.record import (
    Decision,
    Lease,
    Record,
    Release,
    Share,
    State,
    to_json,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.status import (
    status_page,
    status_table,
)

NOW = 1_700_000_130.0
JUDGED = judge.decide(
    {
        judge.FAILURES: judge.Counts(60, 1000, 95, 19000),
        judge.SLOW_TOKENS: judge.Counts(4, 1000, 95, 19000),
        judge.BROKEN_GENERATIONS: None,
    },
    judge.Stage(1000, 19000, 50, 600.0),
)
RECORD = Record(
    model="deepseek-r1",
    fencing=7,
    state=State.STEP,
    stable=Release("1.0.0", "a" * 64),
    canary=Release("1.1.0", "b" * 64),
    steps=(50, 250, 500),
    step=1,
    entered_at=1_700_000_000.0,
    gateways={"gateway-1": Share(250, 250), "gateway-2": Share(250)},
    lease=Lease("release-1", 1_700_000_100.0, 120),
    decisions=(
        Decision(1_699_999_000.0, State.STEP, 0, "good", "300 requests"),
        Decision(
            1_700_000_120.0,
            State.STEP,
            1,
            JUDGED.kind,
            JUDGED.reason,
            JUDGED.measures(),
            JUDGED.thresholds(),
        ),
    ),
    started_by="operator",
    started_at=1_699_990_000.0,
    reason="weekly update",
)
SAID = [
    "deepseek-r1",
    "1.1.0 (bbbbbbbbbbbb)",
    "25 %",
    "60 / 1000 (6 %)",
    "95 / 19000 (0.5 %)",
    "4.65 % - 7.6 %",
    "2023-11-14 22:15:20 UTC",
    "operator",
    "weekly update",
    "gateway-2",
]
ENGLISH = [
    "canary takes requests",
    "step 2 of 3",
    "renewed 30 s ago",
    "failed first attempts",
    "not known",
]
CHINESE = ["金丝雀正在接收请求", "第 2 步 / 共 3 步", "30 秒前续约", "首次尝试失败", "未知", "不良"]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>&\"'\x1b[31m\u202e"


def browser(*options: str, page: Path) -> str:
    """What headless Chromium prints for a page; without a sandbox, as root needs it."""
    program = shutil.which("chromium-headless-shell")
    assert program, "chromium-headless-shell is needed for this test: run tests/packages"
    done = subprocess.run(
        [
            program,
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={page.parent / 'profile'}",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def colours(picture: Path) -> tuple[int, int, set[bytes]]:
    """Width, height and the different rows of a PNG, as they are filtered."""
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    at, packed = 8, b""
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + size]
        at += size + 12
    pixels = zlib.decompress(packed)
    line = len(pixels) // height
    return width, height, {pixels[start : start + line] for start in range(0, len(pixels), line)}


def compact(text: str) -> str:
    """Without spaces and line ends, which a browser puts where a cell is narrow."""
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize(("language", "words"), [("en", ENGLISH), ("zh-CN", CHINESE)])
def test_the_table_says_state_share_figures_and_decisions(language: str, words: list[str]) -> None:
    table = status_table(RECORD, NOW, language)
    assert [one for one in [*SAID, *words] if one not in table] == []
    assert table.index("22:15:20") < table.index("21:56:40"), "the last decision comes first"


def test_the_page_is_shown_by_a_browser_as_the_record_has_it(tmp_path: Path) -> None:
    page = tmp_path / "status.html"
    page.write_text(status_page(RECORD, NOW), encoding="utf-8")
    picture, printed = tmp_path / "status.png", tmp_path / "status.pdf"
    browser(f"--screenshot={picture}", "--window-size=1200,2400", page=page)
    width, height, rows = colours(picture)
    assert (width, height) == (1200, 2400)
    assert len(rows) > 300, "text and tables, not an empty page"
    browser(f"--print-to-pdf={printed}", "--no-pdf-header-footer", page=page)
    shown = subprocess.run(
        ["pdftotext", "-enc", "UTF-8", str(printed), "-"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    parts = [*SAID, *ENGLISH, *CHINESE]
    assert [one for one in parts if compact(one) not in compact(shown)] == []


def test_texts_of_a_record_run_nothing_in_a_browser(tmp_path: Path) -> None:
    hostile = replace(
        RECORD,
        started_by=HOSTILE,
        reason=HOSTILE,
        gateways={HOSTILE: Share(250, 250)},
        decisions=(Decision(1.0, State.STEP, 0, HOSTILE, HOSTILE, {HOSTILE: {HOSTILE: 1.0}}),),
    )
    page = tmp_path / "status.html"
    page.write_text(status_page(hostile, NOW), encoding="utf-8")
    shown = browser("--dump-dom", page=page)
    tags = Tags()
    tags.feed(shown)
    assert tags.found <= {
        *("html", "head", "meta", "title", "style", "body", "section", "h1", "h2", "p", "ul", "li"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "\x1b" not in shown
    assert "\x1b" not in status_table(hostile, NOW)
    assert "\u202e" not in status_table(hostile, NOW)


class Tags(HTMLParser):
    """Names of all elements of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        assert [
            name for name, _value in attrs if name.startswith("on") or name in ("src", "href")
        ] == []


@pytest.mark.parametrize("state", State)
def test_every_state_has_words_in_every_language(state: State) -> None:
    for language in LANGUAGES:
        record = replace(RECORD, state=state, gateways={}, decisions=())
        assert LANGUAGES[language].status.states[state.value] in status_table(record, NOW, language)
        assert LANGUAGES[language].status.states[state.value] in status_page(record, NOW)


def test_every_measure_of_the_judge_has_words_in_every_language() -> None:
    for language in LANGUAGES.values():
        assert language.status.measures.keys() == judge.DEFAULT_MARGINS.keys()


def test_a_record_of_nothing_is_shown() -> None:
    assert status_table(Record("m"), NOW).startswith("m: nothing under way\n")
    assert "None yet." in status_page(Record("m"), NOW)


def test_the_filter_reads_the_file_of_a_record() -> None:
    text = to_json(RECORD).decode()
    assert rollout_status(text, NOW) == status_table(RECORD, NOW)
    assert rollout_status(text, NOW, "page") == status_page(RECORD, NOW)
    with pytest.raises(Exception, match=r"rollout_status: .* is no JSON"):
        rollout_status("nothing", NOW)
    with pytest.raises(Exception, match="table or page"):
        rollout_status(text, NOW, "picture")
