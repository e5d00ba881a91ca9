# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything that is judged before a rollout, as one list of checks: the inventory, each host, and the network between them.

Each function gives all checks of its subject, those that are met too. :func:`checks` gives all of them, and :func:`table` the text for a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..common import findings
from ..inventory import requirements, site_variables
from ..reports.languages import language, translated
from ..reports.words import Language, PreflightWords
from . import capacity
from .check import DEFERRED, FAILED, UNTESTED, Check, Groups, Host, Network
from .hosts import host_checks, refusal_checks
from .inventory import inventory_checks, rollout_checks, zone_checks
from .network import mtu_checks, network_checks


def checks(groups: Groups, hosts: Sequence[Host], network: Network) -> list[Check]:
    """Judge everything, the inventory first and the network last."""
    least = requirements.merged(site_variables.common(hosts).get("deepseek_minimums"))
    site = capacity.site_of(groups, hosts)
    rows = [
        *inventory_checks(groups, hosts),
        *rollout_checks(hosts),
        *zone_checks(hosts),
        *(
            check
            for host in hosts
            for check in host_checks(host, groups, least, capacity.stored(host, groups, site))
        ),
        *(check for host in hosts for check in capacity.memory_checks(host, site)),
        *mtu_checks(hosts, least),
        *network_checks(groups, hosts, network, least),
    ]
    return [*rows, *(check for host in hosts for check in _refusals(host, hosts, rows))]


def _refusals(host: Host, hosts: Sequence[Host], rows: Sequence[Check]) -> Iterator[Check]:
    """What roles would refuse on a host, beside what is wrong with it or with the inventory anyway."""
    others = {one.name for one in hosts} - {host.name}
    failed = {row.name for row in rows if row.status == FAILED and row.host not in others}
    return refusal_checks(host, failed)


# The report


def table(rows: Sequence[Check], words: PreflightWords) -> list[str]:
    """Columns of text, one line for each check; a cell that is wider than the widest column moves what follows."""
    head = (words.host, words.check, words.found, words.expected, words.remedy)
    return findings.table(
        [one.upper() for one in head],
        [(row.host, row.name, row.found, row.expected, row.remedy) for row in rows],
    )


def in_language(rows: Sequence[Check], into: Language) -> list[Check]:
    """The checks with what they say in a language, as far as its sentences are known; names stay."""
    return [
        replace(
            row,
            found=translated(row.found, into),
            expected=translated(row.expected, into),
            remedy=translated(row.remedy, into),
        )
        for row in rows
    ]


def lines(rows: Sequence[Check], hosts: int, tag: str = "en") -> list[str]:
    """What a run says in the language of this tag: how much is wrong, the table of it, what was not tested, and what was not judged."""
    into = language(tag)
    words, rows = into.preflight, in_language(rows, into)
    failed = [row for row in rows if row.status == FAILED]
    if failed:
        count = len(failed)
        said = words.one_wrong if count == 1 else words.wrong.format(count=count)
        told = [said, *table(failed, words)]
    else:
        told = [words.all_right.format(hosts=hosts)]
    for status, title in ((UNTESTED, words.untested), (DEFERRED, words.deferred)):
        others = [row for row in rows if row.status == status]
        told += [title] if others else []
        told += [f"{row.host}, {row.name}: {row.found}" for row in others]
    return told
