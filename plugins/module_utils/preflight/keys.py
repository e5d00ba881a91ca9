# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What preflight judges of the keys of a host: who could copy them, and what of that the site accepts."""

from __future__ import annotations

from collections.abc import Iterator

from ..pkcs11 import custody as key_custody
from .check import DEFERRED, SKIPPED, Check, Groups, Host, groups_of, judge


def custody_checks(host: Host, groups: Groups) -> Iterator[Check]:
    """Judge who could copy the keys of a host."""
    for finding in key_custody.judge(host.variables, groups_of(host.name, groups), host.custody):
        name, means = finding.risk, key_custody.RISKS[finding.risk]
        if finding.present is None:
            yield Check(host.name, name, DEFERRED, finding.found)
        elif finding.present and finding.accepted:
            yield Check(host.name, name, SKIPPED, f"accepted: {finding.found}")
        else:
            remedy = f"{finding.remedy} (docs/explanation/tls.md), or add {name} to deepseek_accepted_key_risks: {means}"
            check = Check(host.name, name, "", finding.found, "that nobody can copy keys", remedy)
            yield judge(check, not finding.present)
