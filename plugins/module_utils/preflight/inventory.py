# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What preflight judges of the inventory alone: groups, names, variables, addresses, workers, releases, files on the controller and zones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..common import host_names
from ..common.findings import Finding
from ..inventory import site_variables
from .check import FAILED, INVENTORY, OK, Check, Groups, Host


def inventory_checks(groups: Groups, hosts: Sequence[Host]) -> Iterator[Check]:
    """Judge what needs nothing but the inventory."""
    subjects: dict[str, Iterable[Finding]] = {
        "groups": site_variables.group_problems(
            groups, site_variables.only_mounted(hosts), site_variables.copies(hosts)
        ),
        "names": _name_problems(groups, hosts),
        "variables": variable_problems(hosts),
        "addresses": site_variables.address_problems(groups, hosts),
        "workers": (problem for host in hosts for problem in site_variables.worker_problems(host)),
        "releases": site_variables.release_problems(groups, hosts),
    }
    for name, problems in subjects.items():
        found = [
            Check(problem.where, name, FAILED, problem.what, "", problem.remedy)
            for problem in problems
        ]
        yield from found
        if not found:
            yield Check(INVENTORY, name, OK, "as they must be")


def variable_problems(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Find what is wrong with the variables of the site and of the roles."""
    yield from site_variables.unread_problems(hosts)
    yield from site_variables.variable_problems(hosts)
    yield from _role_problems(hosts)


def _name_problems(groups: Groups, hosts: Sequence[Host]) -> Iterator[Finding]:
    """Find names that cannot be a host's."""
    for problem in host_names.problems((host.name for host in hosts), groups):
        yield Finding(*problem)


def _role_problems(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Find what is wrong with the variables of roles, each once for all hosts that it is so on."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for host in hosts:
        for one in host.role_problems:
            found.setdefault((one["name"], one["what"], one["remedy"]), []).append(host.name)
    for (name, what, remedy), names in found.items():
        on = "" if len(names) == len(hosts) else f" (for {', '.join(names)})"
        yield Finding(name, f"{what}{on}", remedy)


def rollout_checks(hosts: Sequence[Host]) -> Iterator[Check]:
    """Judge whether the list of releases agrees with what the release host has written down of canaries."""
    said = [host.rollouts for host in hosts if host.rollouts is not None]
    found = [one for problems in said for one in problems]
    for one in found:
        yield Check(one["where"], "rollouts", FAILED, one["what"], "", one["remedy"])
    if said and not found:
        yield Check(INVENTORY, "rollouts", OK, "as the release host has it")


def zone_checks(hosts: Sequence[Host]) -> Iterator[Check]:
    """Judge zones and flows, where they are to be enforced; what is wrong with the site is said of every host alike."""
    if site_variables.common(hosts).get("deepseek_zones_enforced") is not True:
        return
    said = dict.fromkeys(text for host in hosts for text in host.zones)
    for text in said:
        yield Check(INVENTORY, "zones", FAILED, text)
    if not said:
        yield Check(INVENTORY, "zones", OK, "as they must be")
