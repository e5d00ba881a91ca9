# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages in Chinese have the commands, playbooks and links of those in English.

That links lead somewhere is in test_links.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
CHINESE = DOCS / "zh-CN"
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
# code that is set apart by blanks, which text that goes on below a list is not
INDENTED = re.compile(r"(?:^    [^\n]*\n)+", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
PLAYBOOK = re.compile(r"`([a-z]\w*\.yml)`")
NAME = re.compile(r"onprem\.deepseek\.[a-z_]+")
PAGES = sorted([*DOCS.glob("how-to/*.md"), *DOCS.glob("tutorial/*.md")])
PAIRS = [(page, CHINESE / page.relative_to(DOCS)) for page in PAGES]
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
every_pair = pytest.mark.parametrize(
    ("english", "chinese"), [*PAIRS, READMES], ids=lambda page: page.name
)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code(page: Path) -> list[str]:
    text = text_of(page)
    blocks = [match.group() for match in FENCE.finditer(text)]
    return blocks + INDENTED.findall(FENCE.sub("", text))


def named(page: Path) -> set[str]:
    """The playbooks that a page names, in code and outside."""
    text = text_of(page)
    return {*PLAYBOOK.findall(text), *NAME.findall(text)}


def linked(page: Path) -> set[str]:
    """Pages that a page links; those in Chinese as what they are of."""
    found = set()
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+:", target):
            found.add(target)
            continue
        name = target.partition("#")[0]
        file = (page.parent / name).resolve() if name else page.resolve()
        if file.is_relative_to(CHINESE):
            file = DOCS / file.relative_to(CHINESE)
        found.add(str(file.relative_to(ROOT)))
    return found


@every_pair
def test_code_is_the_same_in_both_languages(english: Path, chinese: Path) -> None:
    assert code(chinese) == code(english)


@every_pair
def test_the_same_playbooks_are_named_in_both_languages(english: Path, chinese: Path) -> None:
    assert named(chinese) == named(english)


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda page: page.name)
def test_pages_link_what_the_english_ones_do(english: Path, chinese: Path) -> None:
    assert linked(chinese) - {"docs/reference/preflight.md"} == linked(english) - {
        "docs/reference/preflight.md"
    }


@pytest.mark.parametrize(
    "chinese", [chinese for _english, chinese in PAIRS], ids=lambda page: page.name
)
def test_a_page_in_chinese_is_in_chinese(chinese: Path) -> None:
    prose = re.sub(r"`[^`]*`", "", FENCE.sub("", INDENTED.sub("", text_of(chinese))))
    assert len(re.findall(r"[\u4e00-\u9fff]", prose)) > 20


def test_no_page_in_chinese_is_left_of_one_that_is_gone() -> None:
    there = {chinese for _english, chinese in PAIRS} | {CHINESE / "index.md"}
    assert set(CHINESE.rglob("*.md")) == there


def test_each_readme_leads_to_the_other() -> None:
    english, chinese = READMES
    assert f"]({chinese.name})" in text_of(english)
    assert f"]({english.name})" in text_of(chinese)
