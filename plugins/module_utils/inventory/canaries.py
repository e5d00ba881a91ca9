# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The canary of a list of releases, and the list that a site has when its rollout is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .releases import LIST, OF_THE_MODEL

PROMOTED, ROLLED_BACK = "promoted", "rolled_back"
OUTCOMES = (PROMOTED, ROLLED_BACK)
_PLACES = ("hosts", "workers")


def canary_of(releases: Sequence[Mapping[str, Any]], model: str = "") -> dict[str, Any]:
    """Give the canary of a model, with ``stable``, the release beside it. Raises ValueError where it is not clear which is meant.

    *releases* are as :func:`releases.releases` gives them. Without a model there must be one canary.
    """
    canaries = [one for one in releases if one["is_canary"] and model in ("", one["model"])]
    if not canaries:
        whose = f" of {model}" if model else ""
        raise ValueError(
            f"{LIST} has no canary{whose}: add an entry with its version, its workers and a share"
        )
    if len(canaries) > 1:
        models = ", ".join(str(one["model"]) for one in canaries)
        raise ValueError(f"there are canaries of {models}: name one with -e canary_model=MODEL")
    canary = canaries[0]
    stable = [one for one in releases if one["model"] == canary["model"] and not one["is_canary"]]
    if len(stable) != 1:
        raise ValueError(f"{LIST} has no entry without a share beside {canary['label']}")
    return {**canary, "stable": stable[0]}


def list_after(
    listed: Sequence[Mapping[str, Any]], canary: Mapping[str, Any], outcome: str
) -> list[dict[str, Any]]:
    """Give the list of the inventory without the canary: its workers go to the entry that stays, with the canary's version if it was promoted.

    *canary* is what :func:`canary_of` gives.
    """
    stable = canary["stable"]
    entries = [dict(one) for one in listed]
    of_model = [one for one in entries if one.get("model") == canary["model"]]
    tried = next(one for one in of_model if one.get("share") is not None)
    stays = next(one for one in of_model if one.get("share") is None)
    base = tried if outcome == PROMOTED else stays
    after = {key: value for key, value in base.items() if key not in ("share", *_PLACES)}
    after |= {key: stays[key] for key in OF_THE_MODEL if key in stays}
    whole = all(one.get("hosts") is not None for one in (tried, stays))
    place = "hosts" if whole else "workers"
    after[place] = [*stable[place], *canary[place]]
    return [after if one is stays else one for one in entries if one is not tried]
