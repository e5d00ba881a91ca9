# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The releases that a site serves, side by side: which version of which model each worker has.

What an inventory says, ``deepseek_releases`` or the variables of a single release, becomes one list, in which everything is filled in.
What is wrong with it is in :mod:`release_findings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..checkpoint.precisions import EXPORTED
from . import workers
from .flavours import UNCOMPILED

LIST = "deepseek_releases"
# The site variables of a single release, by the key that each stands for in an entry of the list.
SCALARS = {
    "model": "deepseek_model_name",
    "version": "deepseek_model_version",
    "checkpoint": "deepseek_checkpoint",
    "precisions": "deepseek_precisions",
    "export": "deepseek_export",
    "precision": "deepseek_precision",
    "engine": "deepseek_engine_flavour",
}
VARIABLES = (LIST, *SCALARS.values())
NEEDED = ("model", "version", "checkpoint")
# How it is served: what the variables of a single release may say of each host.
OF_A_HOST = ("precision", "engine")
# What is said of a model, on the entry that stays.
OF_THE_MODEL = ("aliases", "fallback")
KEYS = (
    *SCALARS,
    *("source", "license", "hosts", "workers", "share", "aliases", "fallback", "golden"),
)
# Percent of a model's requests: less than half, so that the release before can take all of them again.
LARGEST_SHARE = 50


@dataclass(frozen=True)
class Release:
    """One release of a site, with everything filled in.

    ``precisions`` are the prepared ones that it has beside fp32, as ``deepseek_precisions`` lists them; ``precision`` is the one that is
    served, by the flavour ``engine``. ``hosts`` are those of which it has all workers, whichever these are; ``workers`` are all that it has,
    as HOST:WORKER, in the order of the inventory. ``otherwise`` has the ``precision`` and ``engine`` of each ``host`` that differs from the
    release. ``golden`` are questions with what answers to them must have in them. ``steps`` are the shares of a canary in percent, rising,
    and empty for a stable release.
    """

    model: str
    version: str
    label: str
    checkpoint: str
    precisions: tuple[Mapping[str, Any], ...]
    export: bool
    source: str
    license: str
    precision: str
    engine: str
    hosts: tuple[str, ...]
    workers: tuple[str, ...]
    otherwise: tuple[Mapping[str, str], ...]
    is_canary: bool
    steps: tuple[int, ...]
    aliases: tuple[str, ...]
    fallback: str
    golden: tuple[Mapping[str, str], ...]


def is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def site(variables: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The variables of the first host that says anything of releases: all say the same."""
    return next(
        (
            values
            for values in variables.values()
            if any(values.get(name) is not None for name in VARIABLES)
        ),
        {},
    )


def said(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Give the entries as the inventory says them, those that are mappings; the variables of a single release are a list of one."""
    listed = values.get(LIST)
    if listed is not None:
        return [one for one in listed if isinstance(one, Mapping)] if is_list(listed) else []
    return [_alone(values)]


def _alone(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entry that the variables of a single release stand for."""
    alone = {key: values.get(name) for key, name in SCALARS.items()}
    return {key: value for key, value in alone.items() if value is not None}


def label(entry: Mapping[str, Any]) -> str:
    """What messages and records call a release."""
    return f"{entry.get('model')}/{entry.get('version')}"


def steps(share: Any) -> tuple[int, ...]:
    """The shares of a canary, one after the other; none where nothing is said of a share."""
    return () if share is None else _listed(share) or (share,)


def releases(
    hosts: Iterable[str], variables: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Give every release of the site as a mapping with the fields of :class:`Release`, in the order of the list.

    *hosts* are the names of the inference hosts, in the order of the inventory, and *variables* has those of each host by its name. The
    list is the site's, so that any host that knows it is asked; the variables of a single release may have another precision and engine on
    a host.

    Raises ValueError where nothing could be served; that the whole list makes sense is judged in :mod:`release_findings`.
    """
    entries = said(site(variables))
    if not entries or any(not entry.get(key) for entry in entries for key in NEEDED):
        names = ", ".join(SCALARS[key] for key in NEEDED)
        raise ValueError(
            f"there is no release, or one without {', '.join(NEEDED)}: set {names}, or {LIST}"
        )
    return _filled_in(entries, hosts, variables)


def usable(
    hosts: Iterable[str], variables: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Give the releases that can be made sense of, as :func:`releases` does; the others are reported, and hide nothing of these."""
    entries = [
        entry
        for entry in said(site(variables))
        if all(isinstance(entry.get(key), str) and entry[key] for key in NEEDED)
    ]
    return _filled_in(entries, hosts, variables)


def _filled_in(
    entries: Iterable[Mapping[str, Any]],
    hosts: Iterable[str],
    variables: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    mine = {host: variables[host] for host in hosts}
    known = {host: workers.names(told.get("deepseek_workers")) for host, told in mine.items()}
    listed = site(variables).get(LIST) is not None
    of_hosts = {} if listed else {host: _served(_alone(told)) for host, told in mine.items()}
    found = []
    for entry in entries:
        otherwise = [
            {"host": host, **served}
            for host, served in of_hosts.items()
            if served != _served(entry)
        ]
        found.append(_as_mapping(_release(entry, known, otherwise)))
    return found


def _served(entry: Mapping[str, Any]) -> dict[str, str]:
    """How an entry is served: by what, in which precision."""
    return {
        "precision": str(entry.get("precision") or EXPORTED),
        "engine": str(entry.get("engine") or UNCOMPILED),
    }


def _as_mapping(release: Release) -> dict[str, Any]:
    """As YAML and the arguments of roles write it, with lists for tuples."""
    values = {field.name: getattr(release, field.name) for field in fields(release)}
    return {name: list(one) if isinstance(one, tuple) else one for name, one in values.items()}


def _release(
    entry: Mapping[str, Any],
    known: Mapping[str, list[str] | None],
    otherwise: Iterable[Mapping[str, str]] = (),
) -> Release:
    whole = _whole_hosts(entry, known)
    named = _listed(entry.get("workers"))
    mine = [
        f"{host}:{worker}"
        for host, of_host in known.items()
        for worker in of_host or ()
        if host in whole or f"{host}:{worker}" in named
    ]
    return Release(
        model=str(entry.get("model")),
        version=str(entry.get("version")),
        label=label(entry),
        checkpoint=str(entry.get("checkpoint")),
        precisions=_listed(entry.get("precisions")),
        export=entry.get("export") is not False,
        source=str(entry.get("source") or ""),
        license=str(entry.get("license") or ""),
        **_served(entry),
        hosts=tuple(whole),
        workers=tuple(mine),
        otherwise=tuple(otherwise),
        is_canary=entry.get("share") is not None,
        steps=steps(entry.get("share")),
        aliases=_listed(entry.get("aliases")),
        fallback=str(entry.get("fallback") or ""),
        golden=_listed(entry.get("golden")),
    )


def _whole_hosts(entry: Mapping[str, Any], known: Iterable[str]) -> list[str]:
    """The hosts of which a release has all workers: those that it names, or all where it names nothing."""
    if entry.get("hosts") is None and entry.get("workers") is None:
        return list(known)
    return [host for host in known if host in _listed(entry.get("hosts"))]


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if is_list(value) else ()


def engines(host: str, variables: Mapping[str, Any]) -> list[str]:
    """Give the flavours that the workers of a host need, each once; none where nothing of use is said."""
    names = {host: workers.names(variables.get("deepseek_workers"))}
    found = [_release(entry, names) for entry in said(variables)]
    return list(dict.fromkeys(one.engine for one in found if one.workers))


def with_releases(
    listed: Iterable[Mapping[str, Any]],
    host: str,
    all_releases: Sequence[Mapping[str, Any]],
    instead: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Give the workers of a host, each with its ``release``; those that have none are left out.

    *listed* is what :func:`workers.workers` gives, *all_releases* what :func:`releases` gives. What *instead* has and is not empty replaces
    what the site says of the releases.
    """
    mine = of_host(host, all_releases, instead)
    found = []
    for worker in listed:
        place = f"{host}:{worker['name']}"
        served = [one for one in mine if host in one["hosts"] or place in one["workers"]]
        found += [{**worker, "release": one} for one in served[:1]]
    return found


def of_host(
    host: str, all_releases: Sequence[Mapping[str, Any]], instead: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Give the releases that the workers of a host serve, with what is given *instead* of what the site says of them."""
    other = {name: value for name, value in (instead or {}).items() if value}
    mine = [
        one
        for one in all_releases
        if host in one["hosts"]
        or any(worker.partition(":")[0] == host for worker in one["workers"])
    ]
    return [{**_as_on(host, one), **other} for one in mine]


def _as_on(host: str, release: Mapping[str, Any]) -> dict[str, Any]:
    """A release as a host serves it."""
    own: Mapping[str, str] = next((one for one in release["otherwise"] if one["host"] == host), {})
    return {**release, **{key: value for key, value in own.items() if key != "host"}}
