# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words that docs/glossary.md rules out, with what is said in their place."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Patterns, between whatever is no letter: list_folder has one of the words.
INSTEAD = {
    "artefacts?": "artifact",
    "licences?": "license",
    "folders?": "directory",
    "who(?:so)?ever": "the caller, the user, any client",
    "anew": "again",
    "(?:un)?mend(?:s|ed|ing|able)?": "repair",
    "bring(?:s|ing)?|brought": "copy, pull, install, start",
    "servers? behind": "upstream, backend",
    "front doors?": "gateway, its clients' way",
}


def ruled_out(text: str) -> Iterator[tuple[str, str]]:
    """Each of the words in a text, in its order, with what to say."""
    found = [
        (match.start(), match[0], better)
        for word, better in INSTEAD.items()
        for match in re.finditer(rf"(?<![a-z])(?:{word})(?![a-z])", text, re.IGNORECASE)
    ]
    for _place, word, better in sorted(found):
        yield word, better
