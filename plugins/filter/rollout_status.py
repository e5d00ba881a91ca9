# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: rollout_status
short_description: The status of a rollout from its record
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - State, share, figures with intervals and decisions so far, as a table or as an HTML page that loads and runs nothing, in English and
    Chinese.
options:
  _input:
    description: What the file of the record holds.
    type: str
    required: true
  now:
    description: The time, in seconds since 1970.
    type: float
    required: true
  form:
    description: A table for a terminal, or a page for a browser.
    type: str
    choices: [table, page]
    default: table
  language:
    description: The language of a table. A page has both.
    type: str
    choices: [en, zh-CN]
    default: en
"""

EXAMPLES = r"""
- name: Show the status
  ansible.builtin.debug:
    msg: "{{ (record.content | b64decode | onprem.deepseek.rollout_status(now(utc=true).timestamp())).splitlines() }}"
"""

RETURN = r"""
_value:
  description: The table or the page.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.reports.languages import LANGUAGES
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.record import (
    RecordError,
    from_json,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.status import (
    status_page,
    status_table,
)


def rollout_status(text: str, now: float, form: str = "table", language: str = "en") -> str:
    """Return the status of the rollout whose record this is."""
    if form not in ("table", "page") or language not in LANGUAGES:
        raise AnsibleFilterError(
            f"rollout_status: the form is table or page, the language {', '.join(LANGUAGES)}"
        )
    try:
        record = from_json(text.encode())
    except RecordError as error:
        raise AnsibleFilterError(f"rollout_status: {error}") from error
    return status_page(record, now) if form == "page" else status_table(record, now, language)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"rollout_status": rollout_status}
