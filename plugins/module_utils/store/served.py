# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of which releases a host has served, the last one last: what a retirement must never take away."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable

# What a host would go back to, and some more for who asks what was before.
KEPT = 10
IN_USE = 2


def releases_of(content: str) -> list[str]:
    """Read a record, in base64 as Ansible reads files; none for no record. Raises ValueError."""
    if not content:
        return []
    try:
        found = json.loads(base64.b64decode(content, validate=True))["releases"]
    except (binascii.Error, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise ValueError("it is no record of served releases") from error
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("its releases are no list of texts")
    return found


def with_release(releases: Iterable[str], label: str) -> list[str]:
    """Give the releases with *label* as the one that is served now."""
    before = [one for one in releases if one != label]
    return [*before[-(KEPT - 1) :], label]


def versions_in_use(records: Iterable[Iterable[str]], model: str, active: str) -> list[str]:
    """Give the versions of a model that are in use: the *active* one, and what each host serves or would go back to."""
    labels = [label for record in records for label in [*record][-IN_USE:]]
    mine = [label.partition("/")[2] for label in labels if label.partition("/")[0] == model]
    return list(dict.fromkeys([active, *mine]))
