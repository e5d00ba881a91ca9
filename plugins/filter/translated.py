# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: translated
short_description: What a report says, in a language
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns a sentence of a report of this collection in a language, and what is not known as it is.
options:
  _input:
    description: The sentence, in English.
    type: str
    required: true
  language:
    description: The language.
    type: str
    choices: [en, zh-CN]
    required: true
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ preflight_report.checks | map(attribute='found') | map('onprem.deepseek.translated', 'zh-CN') }}"
"""

RETURN = r"""
_value:
  description: The sentence.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.reports.languages import (
    UnknownLanguageError,
    language,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.reports.languages import (
    translated as in_language,
)


def translated(text: str, tag: str) -> str:
    """Return the sentence in a language."""
    try:
        return in_language(str(text), language(tag))
    except UnknownLanguageError as error:
        raise AnsibleFilterError(f"translated: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"translated": translated}
