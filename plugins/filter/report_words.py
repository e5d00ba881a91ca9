# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: report_words
short_description: The words of a report in a language
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns all that a report says beside its data, by name, for the template of the report.
options:
  _input:
    description: The language.
    type: str
    choices: [en, zh-CN]
    required: true
  report:
    description: The report.
    type: str
    choices: [preflight, zones]
    required: true
"""

EXAMPLES = r"""
- name: Show the title
  ansible.builtin.debug:
    msg: "{{ ('zh-CN' | onprem.deepseek.report_words('preflight')).title }}"
"""

RETURN = r"""
_value:
  description: The words, by name, and the C(tag) of the language.
  type: dict
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.reports.languages import (
    UnknownLanguageError,
    language,
)


def report_words(tag: str, report: str) -> dict[str, Any]:
    """Return the words of a report."""
    try:
        chosen = language(tag)
        return {
            "tag": chosen.tag,
            **asdict({"preflight": chosen.preflight, "zones": chosen.zones}[report]),
        }
    except (UnknownLanguageError, KeyError) as error:
        raise AnsibleFilterError(f"report_words: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"report_words": report_words}
