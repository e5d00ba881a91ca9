# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the list of releases and the record of a rollout say different things: each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..common.findings import Finding
from .record import EXPOSED, Record, State

LIST = "deepseek_releases"
_UNDER_WAY = EXPOSED | {State.PREPARED}
_TAKEN_BACK = (State.ROLLING_BACK, State.ROLLED_BACK)


def disagreements(
    record: Record, releases: Sequence[Mapping[str, Any]], retry: bool = False
) -> Iterator[Finding]:
    """Find what the list must not say, or leave out, as the rollout of a model stands.

    *releases* are the site's, with ``model``, ``version`` and ``is_canary``. With *retry* a canary that was rolled back is meant.
    """
    if record.canary is None:
        return
    version = record.canary.version
    tried = f"{record.model}/{version}"
    of_model = [one for one in releases if one["model"] == record.model]
    listed = any(one["is_canary"] and one["version"] == version for one in of_model)
    stays = any(not one["is_canary"] and one["version"] == version for one in of_model)
    if listed and record.state in _TAKEN_BACK and not retry:
        yield Finding(
            f"{LIST}, {tried}, share",
            f"the release was rolled back: {record.reason}",
            f"Give its workers to the entry without a share, and remove it, or try again: {_book('canary')} -e canary_retry=true",
        )
    if listed and record.state is State.DONE:
        yield Finding(
            f"{LIST}, {tried}, share",
            "the release was promoted, and serves all requests",
            "Give its version and its workers to the entry without a share, and remove this one",
        )
    promoted = record.state is State.PROMOTING and stays
    if not listed and not promoted and record.state in _UNDER_WAY:
        yield Finding(
            LIST,
            f"{tried} is {record.state.value} on the release host, and is no canary here",
            f"Put its entry back, or end the rollout: {_book('rollback')} -e canary_model={record.model}",
        )


def _book(name: str) -> str:
    return f"onprem.deepseek.release_{name}"
