# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Code speaks in the field's words: in names, comments, documentation and messages."""

from __future__ import annotations

import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from glossary_words import ruled_out

ROOT = Path(__file__).resolve().parents[3]
PLACES = (
    *("changelogs/fragments", "inventories", "molecule", "playbooks", "plugins", "roles"),
    *("serving/src/deepseek_serving", "tests"),
)
# of these what is said in prose, and the names of tests
PROSE = ("benchmarks", "serving/tests", "serving/training")
KINDS = {".cfg", ".j2", ".py", ".sh", ".toml", ".yml", ""}
# these have the words to say that they are not used
ABOUT_WORDS = {
    "changelogs/fragments/16-python-words.yml",
    "changelogs/fragments/16-words.yml",
    "tests/commits.py",
    "tests/lab/claims.py",
    "tests/unit/test_commits.py",
    "tests/unit/architecture/test_code_words.py",
    "tests/unit/docs/test_page_words.py",
    "tests/unit/glossary_words.py",
}
# the name of a setting of ONNX Runtime
FOREIGN = "model_external_initializers_file_folder_path"


def wrong(text: str) -> list[str]:
    return [
        f"line {number}: {word!r}: say {better}"
        for number, line in enumerate(text.splitlines(), 1)
        for word, better in ruled_out(line.replace(FOREIGN, ""))
    ]


def files(place: str) -> Iterator[Path]:
    for path in sorted((ROOT / place).rglob("*")):
        name = path.relative_to(ROOT)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or path.suffix not in KINDS or str(name) in ABOUT_WORDS:
            continue
        if path.is_file() and not path.is_symlink():
            yield path


@pytest.mark.parametrize("place", PLACES)
def test_code_uses_the_words_of_the_glossary(place: str) -> None:
    found = {str(path): lines for path in files(place) if (lines := wrong(path.read_text()))}
    assert found == {}


def prose(path: Path) -> Iterator[str]:
    """Comments, documentation, and the names of tests as words."""
    with tokenize.open(path) as text:
        for token in tokenize.generate_tokens(text.readline):
            if token.type == tokenize.COMMENT or token.string.startswith('"""'):
                yield token.string
            elif token.type == tokenize.NAME and token.string.startswith("test_"):
                yield token.string.replace("_", " ")


@pytest.mark.parametrize("place", PROSE)
def test_prose_of_programs_uses_them_too(place: str) -> None:
    found = {
        str(path): lines
        for path in files(place)
        if path.suffix == ".py" and (lines := wrong("\n".join(prose(path))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    ["Bring it", "the folder's", "list_folder(", "_folders", "Mended.", "Whoever asks", "anew,"],
)
def test_a_word_that_is_not_used_is_found(text: str) -> None:
    assert len(wrong(text)) == 1
    assert wrong("recommended, amends, placeholder, licensed") == []
