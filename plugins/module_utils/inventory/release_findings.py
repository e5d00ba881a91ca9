# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong with the list of releases: with each entry, with all of them together, and with who is to serve them.

Each function gives all that it finds. :func:`list_problems` needs the site's variables alone, :func:`placement_problems` those of the
inference hosts, too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..artifacts.names import NAME
from ..checkpoint.precisions import EXPORTED, PREPARED
from ..common.findings import Finding
from . import releases, workers
from .flavours import CUDA_PRECISIONS, FLAVOURS, ON_CUDA, UNCOMPILED
from .releases import LIST, SCALARS, is_list, label

MOST = 64
MOST_ALIASES = 64
MOST_GOLDEN = 64
MOST_GOLDEN_CHARACTERS = 10_000
ALIAS = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}"


def is_prepared(name: Any) -> bool:
    return isinstance(name, str) and name in PREPARED


def is_precisions(value: Any) -> bool:
    return is_list(value) and all(
        isinstance(item, Mapping) and is_prepared(item.get("name")) for item in value
    )


def is_directory(value: Any) -> bool:
    """Whether it is an absolute path without white space, quotes, and steps up."""
    return _matches(value, r"/(?!.*(?:^|/)\.\.?(?:/|$))[^\s'\"]+")


def _matches(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_name(value: Any) -> bool:
    return _matches(value, NAME)


def _is_names(value: Any) -> bool:
    return is_list(value) and len(value) > 0 and all(isinstance(one, str) for one in value)


def _texts(value: Any, accepts: Callable[[Any], bool]) -> list[str]:
    """The texts of a list that is as it must be; none of another, which is said of its key."""
    return [str(one) for one in value] if accepts(value) else []


def _is_share(value: Any) -> bool:
    rising = value if is_list(value) else [value]
    whole = [one for one in rising if isinstance(one, int) and not isinstance(one, bool)]
    return (
        0 < len(whole) == len(rising)
        and all(1 <= one <= releases.LARGEST_SHARE for one in whole)
        and all(before < after for before, after in zip(whole, whole[1:], strict=False))
    )


def _is_aliases(value: Any) -> bool:
    return (
        is_list(value) and len(value) <= MOST_ALIASES and all(_matches(one, ALIAS) for one in value)
    )


def _is_golden(value: Any) -> bool:
    return (
        is_list(value)
        and len(value) <= MOST_GOLDEN
        and all(
            isinstance(one, Mapping)
            and set(one) == {"prompt", "says"}
            and all(
                isinstance(text, str) and 0 < len(text) <= MOST_GOLDEN_CHARACTERS
                for text in one.values()
            )
            for one in value
        )
    )


# What the value of a key must be, in words and as a test.
RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "model": ("letters, digits, dots, underscores and hyphens", _is_name),
    "version": ("letters, digits, dots, underscores and hyphens, in quotes", _is_name),
    "checkpoint": ("an absolute path on the release host", is_directory),
    "precisions": (
        f"a list of mappings, each with the name of a precision ({', '.join(PREPARED)}) and its texts",
        is_precisions,
    ),
    "export": ("true or false", lambda value: isinstance(value, bool)),
    "precision": (
        f"one of {', '.join((EXPORTED, *PREPARED))}",
        lambda value: isinstance(value, str) and value in (EXPORTED, *PREPARED),
    ),
    "engine": (
        f"one of {', '.join(FLAVOURS)}",
        lambda value: isinstance(value, str) and value in FLAVOURS,
    ),
    "source": ("text", lambda value: isinstance(value, str)),
    "license": ("text", lambda value: isinstance(value, str)),
    "hosts": ("a list of inference hosts", _is_names),
    "workers": ("a list of HOST:WORKER", _is_names),
    "share": (
        f"a number of percent from 1 to {releases.LARGEST_SHARE}, or a rising list of them",
        _is_share,
    ),
    "aliases": (
        f"a list of up to {MOST_ALIASES} names, each of up to 128 letters, digits and ._:/@+-, which begin with a letter or a digit",
        _is_aliases,
    ),
    "golden": (
        f"a list of up to {MOST_GOLDEN} mappings, each with a prompt and what an answer to it says, of up to {MOST_GOLDEN_CHARACTERS} characters",
        _is_golden,
    ),
    "fallback": ("the name of another model of the list", _is_name),
}


@dataclass(frozen=True)
class _Entry:
    """One entry as the inventory says it. ``where`` names a key of it for a finding, ``name`` within a sentence."""

    said: Mapping[str, Any]
    where: Callable[[str], str]
    name: Callable[[str], str]

    @property
    def model(self) -> Any:
        return self.said.get("model")

    @property
    def is_canary(self) -> bool:
        return self.said.get("share") is not None


def _entries(values: Mapping[str, Any]) -> list[_Entry]:
    if values.get(LIST) is None:
        return [
            _Entry(one, SCALARS.__getitem__, SCALARS.__getitem__) for one in releases.said(values)
        ]
    return [
        _Entry(one, _named(f"{LIST}, {label(one)}"), lambda key: key)
        for one in releases.said(values)
    ]


def _named(entry: str) -> Callable[[str], str]:
    return lambda key: f"{entry}, {key}" if key else entry


def list_problems(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Find what is wrong with the list itself, or with the variables of a single release."""
    listed = values.get(LIST)
    if listed is not None:
        for name in SCALARS.values():
            if values.get(name) is not None:
                yield Finding(
                    name, f"it is set, and so is {LIST}, which says the same", "Remove it"
                )
        yield from _shape_problems(listed)
    entries = _entries(values)
    for entry in entries:
        if listed is not None:
            yield from _key_problems(entry)
        yield from _precision_problems(entry)
        yield from _flavour_problems(entry)
        yield from _export_problems(entry)
    yield from _model_problems(entries)
    yield from _alias_problems(entries)
    yield from _fallback_problems(entries)


def _shape_problems(listed: Any) -> Iterator[Finding]:
    if not is_list(listed) or not all(isinstance(one, Mapping) for one in listed):
        return  # the site variable's own rule says so
    if not listed:
        yield Finding(LIST, "it is empty", "Name at least one release, or remove it")
    if len(listed) > MOST:
        yield Finding(LIST, f"it has {len(listed)} entries", f"Leave at most {MOST}")


def _key_problems(entry: _Entry) -> Iterator[Finding]:
    """Find keys that do not exist, that are missing, and values that cannot be."""
    for key, value in entry.said.items():
        if key not in RULES:
            close = difflib.get_close_matches(str(key), RULES, n=1)
            remedy = f"Did you mean {close[0]}" if close else f"The keys are {', '.join(RULES)}"
            yield Finding(entry.where(str(key)), "there is no such key", remedy)
            continue
        rule, accepts = RULES[key]
        if value is not None and not accepts(value):
            yield Finding(entry.where(key), f"it is {value!r}", f"It must be {rule}")
    for key in releases.NEEDED:
        if entry.said.get(key) is None:
            yield Finding(entry.where(key), "it is missing", "Set it: every release has one")
    if entry.said.get("hosts") is not None and entry.said.get("workers") is not None:
        yield Finding(entry.where("workers"), "there are hosts, too", "Name hosts or workers")
    for key in releases.OF_THE_MODEL:
        if entry.is_canary and entry.said.get(key) is not None:
            yield Finding(
                entry.where(key), "the entry has a share", "Move it to the model's other entry"
            )


def _precision_problems(entry: _Entry) -> Iterator[Finding]:
    """Find a precision that is to be served and is not published."""
    precision, listed = entry.said.get("precision"), entry.said.get("precisions") or []
    if not is_prepared(precision) or not is_precisions(listed):
        return
    if precision not in [item["name"] for item in listed]:
        yield Finding(
            entry.where("precision"),
            f"it is {precision!r}, which {entry.name('precisions')} does not list",
            f"Add it there with its texts, or serve {EXPORTED!r}",
        )


def _flavour_problems(entry: _Entry) -> Iterator[Finding]:
    """Find an engine that would have to be compiled from the graph as exported, or that has no kernels for a precision."""
    flavour, precision = entry.said.get("engine"), entry.said.get("precision")
    if flavour == ON_CUDA and precision not in CUDA_PRECISIONS:
        yield Finding(
            entry.where("engine"),
            f"it is {flavour!r}, and {entry.name('precision')} is {precision or EXPORTED!r}",
            f"Set {entry.name('precision')} to one of {', '.join(CUDA_PRECISIONS)}",
        )
    elif flavour in FLAVOURS and flavour != UNCOMPILED and precision in (None, EXPORTED):
        yield Finding(
            entry.where("engine"),
            f"it is {flavour!r}, and {entry.name('precision')} is {EXPORTED!r}, from which no engine is compiled",
            f"Set {entry.name('precision')} to one of {', '.join(PREPARED)}, or this to {UNCOMPILED!r}",
        )


def _export_problems(entry: _Entry) -> Iterator[Finding]:
    """Find what would be made from a graph where none is made."""
    if entry.said.get("export") is not False:
        return
    for key in ("precisions", "engine"):
        value = entry.said.get(key)
        if value not in (None, UNCOMPILED, []):
            yield Finding(
                entry.where(key),
                f"it is {value!r}, which needs a graph, and {entry.name('export')} is false",
                f"Leave it out, or {entry.name('export')}",
            )


def _model_problems(entries: Sequence[_Entry]) -> Iterator[Finding]:
    """Find models that have not exactly one release that stays, or more than one canary, and releases that are given twice."""
    of_model: dict[str, list[_Entry]] = {}
    for entry in entries:
        if isinstance(entry.model, str):
            of_model.setdefault(entry.model, []).append(entry)
    for model, mine in of_model.items():
        where = f"{LIST}, {model}"
        canaries = [label(one.said) for one in mine if one.is_canary]
        stable = [label(one.said) for one in mine if not one.is_canary]
        for twice in dict.fromkeys(
            one for one in canaries + stable if (canaries + stable).count(one) > 1
        ):
            yield Finding(
                where, f"{twice} is there twice", "Name all its hosts or workers in one entry"
            )
        if len(canaries) > 1:
            yield Finding(
                where,
                f"{', '.join(canaries)} have a share",
                "Leave the share of one: a model has one canary at a time",
            )
        if len(stable) != 1:
            yield Finding(
                where,
                f"{' and '.join(stable) or 'no entry'} {'have' if len(stable) > 1 else 'has'} no share",
                "Leave exactly one entry of the model without a share: it takes the rest of the requests",
            )


def _alias_problems(entries: Sequence[_Entry]) -> Iterator[Finding]:
    """Find names that mean two models."""
    models = {entry.model for entry in entries if isinstance(entry.model, str)}
    owners: dict[str, list[str]] = {}
    for entry in entries:
        aliases = entry.said.get("aliases")
        for alias in _texts(aliases, _is_aliases):
            owners.setdefault(alias, []).append(label(entry.said))
    for alias, mine in owners.items():
        if alias in models:
            yield Finding(
                f"{LIST}, {mine[0]}, aliases", f"{alias} is the name of a model", "Remove it"
            )
        if len(mine) > 1:
            yield Finding(
                f"{LIST}, {', '.join(dict.fromkeys(mine))}, aliases",
                f"{alias} is there {len(mine)} times",
                "Leave it to one model",
            )


def _fallback_problems(entries: Sequence[_Entry]) -> Iterator[Finding]:
    """Find fallbacks that do not exist, or that lead back to where they began."""
    models = {entry.model for entry in entries if isinstance(entry.model, str)}
    leads = {
        entry.model: entry.said["fallback"]
        for entry in entries
        if isinstance(entry.model, str)
        and isinstance(entry.said.get("fallback"), str)
        and not entry.is_canary
    }
    told: set[str] = set()
    for model, fallback in leads.items():
        where = f"{LIST}, {model}, fallback"
        if fallback not in models:
            yield Finding(
                where,
                f"there is no model {fallback}",
                f"The models are {', '.join(sorted(models))}",
            )
        way = _way(model, leads)
        if way[-1] == model and not told & set(way):
            told |= set(way)
            yield Finding(where, f"it leads in a circle: {' -> '.join(way)}", "Remove one of them")


def _way(model: str, leads: Mapping[str, str]) -> list[str]:
    """The models that answer one after the other; the first comes again at the end where it is a circle that it is part of."""
    way = [model]
    while way[-1] in leads and leads[way[-1]] not in way[1:]:
        way.append(leads[way[-1]])
        if way[-1] == model:
            break
    return way


def placement_problems(
    hosts: Sequence[str], variables: Mapping[str, Mapping[str, Any]]
) -> Iterator[Finding]:
    """Find what is wrong with who serves what, on the inference *hosts*, which have these *variables*.

    Workers that are not well described are said of their host, and not judged here.
    """
    known = {host: workers.names(variables.get(host, {}).get("deepseek_workers")) for host in hosts}
    entries = _entries(releases.site(variables))
    owners: dict[str, list[_Entry]] = {}
    for entry in entries:
        problems, mine = _claims(entry, known, alone=len(entries) == 1)
        yield from problems
        for worker in mine:
            owners.setdefault(worker, []).append(entry)
    yield from _owner_problems(owners, known)
    yield from _engine_problems(owners)
    yield from _share_problems(owners)


def _claims(
    entry: _Entry, known: Mapping[str, list[str] | None], alone: bool
) -> tuple[list[Finding], list[str]]:
    """What is wrong with the hosts and workers that an entry names, and the workers that it has."""
    hosts, named = entry.said.get("hosts"), entry.said.get("workers")
    everything = [f"{host}:{one}" for host, names in known.items() for one in names or ()]
    if hosts is None and named is None:
        if alone and not entry.is_canary:
            return [], everything
        return [
            Finding(
                entry.where(""),
                "it names neither hosts nor workers",
                "Only a single release may leave both out",
            )
        ], []
    problems, mine = [], []
    for host in _texts(hosts, _is_names):
        if host in known:
            mine += [f"{host}:{one}" for one in known[host] or ()]
        else:
            problems.append(_unknown(entry, "hosts", host, known))
    for worker in _texts(named, _is_names):
        host = worker.partition(":")[0]
        if worker in everything:
            mine.append(worker)
        elif known.get(host, []) is not None:
            problems.append(_unknown(entry, "workers", worker, everything))
    return problems, mine


def _unknown(entry: _Entry, key: str, name: str, known: Any) -> Finding:
    close = difflib.get_close_matches(name, list(known), n=1)
    remedy = f"Did you mean {close[0]}" if close else f"There are {', '.join(known) or 'none'}"
    what = (
        "is no host of the group inference"
        if key == "hosts"
        else "is no worker of the group inference"
    )
    return Finding(entry.where(key), f"{name} {what}", remedy)


def _owner_problems(
    owners: Mapping[str, Sequence[_Entry]], known: Mapping[str, list[str] | None]
) -> Iterator[Finding]:
    """Find workers that have no release, or more than one."""
    for host, names in known.items():
        for worker in (f"{host}:{name}" for name in names or ()):
            mine = [label(entry.said) for entry in owners.get(worker, ())]
            if not mine:
                yield Finding(
                    f"{LIST}, {worker}",
                    "it has no release",
                    "Name it in one entry, or remove the worker from deepseek_workers",
                )
            elif len(mine) > 1:
                yield Finding(
                    f"{LIST}, {worker}",
                    f"it is to serve {' and '.join(mine)}",
                    "Leave it to one release",
                )


def _engine_problems(owners: Mapping[str, Sequence[_Entry]]) -> Iterator[Finding]:
    """Find hosts whose workers would need different engines: an environment has one."""
    of_host: dict[str, dict[str, str]] = {}
    for worker, entries in owners.items():
        for entry in entries:
            flavour = str(entry.said.get("engine") or UNCOMPILED)
            of_host.setdefault(worker.partition(":")[0], {}).setdefault(flavour, label(entry.said))
    for host, flavours in of_host.items():
        if len(flavours) > 1:
            each = ", ".join(f"{flavour} ({one})" for flavour, one in flavours.items())
            yield Finding(
                f"{LIST}, {host}",
                f"its workers need the engines {each}",
                "Serve releases with one engine on a host: it has one environment",
            )


def _share_problems(owners: Mapping[str, Sequence[_Entry]]) -> Iterator[Finding]:
    """Find canaries that would get more of the requests than they have of the model's workers."""
    of_model: dict[str, list[_Entry]] = {}
    for entries in owners.values():
        for entry in entries:
            if isinstance(entry.model, str):
                of_model.setdefault(entry.model, []).append(entry)
    for mine in of_model.values():
        canaries = [entry for entry in mine if entry.is_canary]
        if not canaries or not _is_share(canaries[0].said["share"]):
            continue
        most, part = (
            max(releases.steps(canaries[0].said["share"])),
            100 * len(canaries) // len(mine),
        )
        if most > part:
            yield Finding(
                canaries[0].where("share"),
                f"it is {most} percent, and the canary has {len(canaries)} of the model's {len(mine)} workers",
                f"Leave it at {part} or less, or give the canary more workers",
            )
