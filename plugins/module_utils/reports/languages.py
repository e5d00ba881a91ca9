# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The languages of reports, and sentences of the code in them.

A sentence is found by its English, as with gettext(3), since that is what a report for programs has; parts that are filled in are looked for
as well, so that a remedy inside another is in the same language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .chinese import CHINESE
from .english import ENGLISH
from .words import Language

LANGUAGES: Mapping[str, Language] = {one.tag: one for one in (ENGLISH, CHINESE)}
# Those with parts that are filled in, the most particular first.
_TEMPLATES: Mapping[str, Sequence[str]] = {
    tag: sorted(
        (one for one in into.sentences if "{}" in one), key=lambda one: -len(one.replace("{}", ""))
    )
    for tag, into in LANGUAGES.items()
}
# Longer texts are what a program printed, and are left as they are.
LONGEST = 4000


class UnknownLanguageError(ValueError):
    """There is no such language."""


def language(tag: str) -> Language:
    """The language of this tag; :class:`UnknownLanguageError` if there is none."""
    if tag not in LANGUAGES:
        raise UnknownLanguageError(
            f"there is no language {tag!r}; there are {', '.join(LANGUAGES)}"
        )
    return LANGUAGES[tag]


def translated(text: str, into: Language) -> str:
    """The text in a language, as far as its sentences are known; the rest stays as it is."""
    if not into.sentences or len(text) > LONGEST:
        return text
    if text in into.sentences:
        return into.sentences[text]
    for template in _TEMPLATES[into.tag]:
        parts = filled_in(template, text)
        if parts:
            return into.sentences[template].format(*(translated(part, into) for part in parts))
    head, colon, tail = text.partition(": ")
    return f"{head}: {translated(tail, into)}" if colon else text


def filled_in(template: str, text: str) -> list[str]:
    """What stands in the text where the template has {}, as short as can be from the left; nothing if it is another text."""
    first, *others = template.split("{}")
    if not others or not text.startswith(first):
        return []
    parts, at = [], len(first)
    for other in others[:-1]:
        end = text.find(other, at)
        if end < 0:
            return []
        parts.append(text[at:end])
        at = end + len(other)
    last = len(text) - len(others[-1])
    if last < at or not text.endswith(others[-1]):
        return []
    return [*parts, text[at:last]]
