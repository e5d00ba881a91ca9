# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An error that says what is wrong and what to do about it."""

from __future__ import annotations


class RefusalError(Exception):
    """Base of them; ``code`` is stable, so that a program can tell them apart."""

    def __init__(self, code: str, problem: str, remedy: str) -> None:
        super().__init__(f"{code}: {problem} Remedy: {remedy}")
        self.code = code
        self.problem = problem
        self.remedy = remedy
