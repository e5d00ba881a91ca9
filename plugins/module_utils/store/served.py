# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of which releases a host has served, the last one last: what a retirement must never take away.

A host with several releases serves them together. What it served together is one member of the record: a text for a single release, a list
of texts for several.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from typing import Any

# What a host would go back to, and some more for who asks what was before.
KEPT = 10
IN_USE = 2

# The labels (``<model>/<version>``) of what was served together.
Together = tuple[str, ...]


def releases_of(content: str) -> list[Together]:
    """Read a record, in base64 as Ansible reads files; none for no record. Raises ValueError."""
    if not content:
        return []
    try:
        found = json.loads(base64.b64decode(content, validate=True))["releases"]
    except (binascii.Error, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise ValueError("it is no record of served releases") from error
    return together(found)


def together(found: Any) -> list[Together]:
    """Read the releases of a record. Raises ValueError."""
    if not isinstance(found, list):
        raise ValueError("its releases are no list of texts")
    served = [tuple(one) if isinstance(one, list) else (one,) for one in found]
    if not all(isinstance(label, str) for one in served for label in one):
        raise ValueError("its releases are no list of texts")
    return served


def with_releases(before: Iterable[Together], labels: Sequence[str]) -> list[str | list[str]]:
    """Give the releases, as they are recorded, with *labels* as those that are served now."""
    others = [one for one in before if one != tuple(labels)]
    served = [*others[-(KEPT - 1) :], tuple(labels)]
    return [one[0] if len(one) == 1 else list(one) for one in served]


def in_use(record: Sequence[Together]) -> list[str]:
    """Give what a host serves and what it would go back to."""
    return list(dict.fromkeys(label for one in record[-IN_USE:] for label in one))


def versions_in_use(
    records: Iterable[Sequence[Together]], model: str, active: Iterable[str]
) -> list[str]:
    """Give the versions of a model that are in use: the *active* ones, and what each host serves or would go back to."""
    labels = [label for record in records for label in in_use(record)]
    mine = [label.partition("/")[2] for label in labels if label.partition("/")[0] == model]
    return list(dict.fromkeys([*active, *mine]))
