# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Code speaks in the field's words: in names, comments, documentation and messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from glossary_words import ruled_out

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(
    path.relative_to(ROOT)
    for package in ("plugins", "serving/src/deepseek_serving")
    for path in (ROOT / package).rglob("*.py")
    if not path.is_symlink()
)
# the name of a setting of ONNX Runtime
FOREIGN = "model_external_initializers_file_folder_path"


def wrong(text: str) -> list[str]:
    return [
        f"line {number}: {word!r}: say {better}"
        for number, line in enumerate(text.splitlines(), 1)
        for word, better in ruled_out(line.replace(FOREIGN, ""))
    ]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_code_uses_the_words_of_the_glossary(file: Path) -> None:
    assert wrong((ROOT / file).read_text()) == []


@pytest.mark.parametrize(
    "text",
    ["Bring it", "the folder's", "list_folder(", "_folders", "Mended.", "Whoever asks", "anew,"],
)
def test_a_word_that_is_not_used_is_found(text: str) -> None:
    assert len(wrong(text)) == 1
    assert wrong("recommended, amends, placeholder, licensed") == []
