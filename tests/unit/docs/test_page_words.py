# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages use the words of docs/glossary.md, and none of those that it rules out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from glossary_words import INSTEAD, ruled_out

ROOT = Path(__file__).resolve().parents[3]
CODE = re.compile(r"^( *)```.*?^\1```|`[^`\n]*`|^    [^\n]*$", re.MULTILINE | re.DOTALL)
# It names the words that are not used.
GLOSSARY = ROOT / "docs/glossary.md"


def pages() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    yield from (ROOT / "docs").rglob("*.md")
    yield from ROOT.glob("roles/*/README.md")
    yield from ROOT.glob("serving/*.md")


def found(text: str) -> list[str]:
    return [word for word, _better in ruled_out(CODE.sub("", text))]


def test_pages_use_the_words_of_the_glossary() -> None:
    wrong = {
        str(page.relative_to(ROOT)): words
        for page in pages()
        if page not in (GLOSSARY, ROOT / "CHANGELOG.md")
        and (words := found(page.read_text(encoding="utf-8")))
    }
    assert wrong == {}, f"write instead: {INSTEAD}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It brings a folder.", ["brings", "folder"]),
        ("`folder`, recommended, amended", []),
        ("```\nfolder\n```\nand\n\n    mended\n", []),
        ("the server behind", ["server behind"]),
    ],
)
def test_what_a_word_is(text: str, words: list[str]) -> None:
    assert found(text) == words


def test_every_term_of_the_glossary_is_defined_once() -> None:
    text = GLOSSARY.read_text(encoding="utf-8")
    terms = [
        term
        for row in re.findall(r"^\| (\*\*.+?) \|", text, re.MULTILINE)
        for term in re.findall(r"\*\*(.+?)\*\*(?! \()", row)
    ]
    assert len(terms) > 50
    assert sorted(terms) == sorted(set(terms))
