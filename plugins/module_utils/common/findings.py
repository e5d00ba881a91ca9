# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check found: where, what, and the remedy; and tables of it for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

# Columns of a table are no wider; a longer cell moves what follows.
_WIDEST = 60


@dataclass(frozen=True)
class Finding:
    """What was found where (a host, variable or file), and what to do about it; ``ok`` where all is as expected."""

    where: str
    what: str
    remedy: str
    ok: bool = False

    def __str__(self) -> str:
        """Give the finding as one line."""
        return f"{self.where}: {self.what}. {self.remedy}."

    def as_dict(self) -> dict[str, str]:
        """Give what is wrong as a module's result."""
        return {"where": self.where, "what": self.what, "remedy": self.remedy}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of text, one line for each row below the header; an empty cell is a dash, white space in one is one blank."""
    if not rows:
        return []
    cells = [list(header)]
    cells += [[" ".join(text.split()) or "-" for text in row] for row in rows]
    columns = range(len(header) - 1)
    widths = [min(_WIDEST, max(width(line[column]) for line in cells)) for column in columns]
    return [
        "  ".join([*(padded(line[column], widths[column]) for column in columns), line[-1]])
        for line in cells
    ]


def width(text: str) -> int:
    """Columns of a terminal that a text takes: two for each character that is wide or full-width by Unicode's annex 11."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def padded(text: str, columns: int) -> str:
    """The text with blanks up to so many columns of a terminal."""
    return text + " " * (columns - width(text))
