# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the releases of a site need of its hosts: room for what is stored, and memory for what is served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..inventory import flavours, releases
from .check import FAILED, Check, Groups, Host, number

# Bytes of a graph for each byte of the checkpoint, at least: an exported graph is never smaller than the checkpoint, and a
# prepared one has this share of a checkpoint in FP32.
SHARES = {"fp32": 1.0, "fp16": 0.5, "bf16": 0.5, "int8": 0.25, "fp8": 0.25, "int4": 0.125}


@dataclass(frozen=True)
class Site:
    """The releases of a site, as far as they make sense, and bytes of each checkpoint that was examined, by the label of its release."""

    releases: Sequence[Mapping[str, Any]]
    sizes: Mapping[str, int]


def site_of(groups: Groups, hosts: Sequence[Host]) -> Site:
    """What of a site is the same for all of its hosts."""
    told = {host.name: host.variables for host in hosts}
    names = [name for name in groups.get("inference", ()) if name in told]
    sizes = {
        one["__preflight_entry"]["label"]: int(one["checkpoint"]["size"])
        for host in hosts
        for one in host.checkpoints
        if (one.get("checkpoint") or {}).get("size") is not None
    }
    return Site(releases.usable(names, told), sizes)


def stored(host: Host, groups: Groups, site: Site) -> int:
    """Bytes that the releases will still take on a host, at least."""
    mine, parts = site.releases, _published
    if not _keeps_all(host, groups):
        if host.name not in groups.get("inference", ()):
            return 0
        mine, parts = releases.of_host(host.name, mine), _served
    return int(sum(site.sizes.get(one["label"], 0) * parts(one) for one in _new(host, mine)))


def _keeps_all(host: Host, groups: Groups) -> bool:
    return any(host.name in groups.get(name, ()) for name in ("storage", "release"))


def _new(host: Host, mine: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [one for one in mine if one["label"] not in host.published]


def _served(release: Mapping[str, Any]) -> float:
    return SHARES.get(release["precision"], 0.0) if release["export"] else 1.0


def _published(release: Mapping[str, Any]) -> float:
    """The checkpoint and its graphs; without graphs there is the checkpoint alone."""
    if not release["export"]:
        return 1.0
    # what is no precision is reported, not counted
    names = [one.get("name") for one in release["precisions"] if isinstance(one, Mapping)]
    return 2.0 + sum(SHARES.get(str(name), 0.0) for name in names)


def memory_checks(host: Host, site: Site) -> Iterator[Check]:
    """Judge whether the graphs that processors of a host run fit into its memory; workers of one release may share it."""
    memory = (host.facts or {}).get("memtotal_mb")
    mine = [
        one
        for one in releases.of_host(host.name, site.releases)
        if one["export"] and one["engine"] not in flavours.GPU_FLAVOURS
    ]
    needed = sum(site.sizes.get(one["label"], 0) * _served(one) for one in mine)
    # the fact is in units of 2^20 bytes
    if memory is None or needed <= memory * 2**20:
        return
    yield Check(
        host.name,
        "release_memory",
        FAILED,
        f"{number(memory * 2**20 / 1e9)} GB",
        f"at least {number(needed / 1e9)} GB, which {', '.join(one['label'] for one in mine)} take",
        "Add memory, or serve fewer releases on this host",
    )
